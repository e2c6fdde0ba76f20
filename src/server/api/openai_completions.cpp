// POST /v1/completions and /v1/embeddings, as OpenAI's clients speak them.

#include <cmath>

#include "core/error.h"
#include "server/api/openai.h"
#include "text/json_text.h"

namespace palimpsest {

namespace {

class TextForm final : public AnswerForm {
 public:
    TextForm(std::string id, std::string model, bool has_usage, bool has_likelihoods,
             std::string echo, const Service& service)
        : id_(std::move(id)),
          model_(std::move(model)),
          created_(static_cast<int64_t>(std::time(nullptr))),
          has_usage_(has_usage),
          has_likelihoods_(has_likelihoods),
          echo_(std::move(echo)),
          service_(service) {}

    std::string whole(const FinishedWork& work) override {
        Json json = head();
        json["choices"] = Json::array();
        for (size_t i = 0; i < work.answers.size(); ++i) {
            const FinishedAnswer& a = work.answers[i];
            json["choices"].push_back({{"index", i},
                                       {"text", echo_ + a.parsed.content},
                                       {"logprobs", likelihoods(a.likelihoods)},
                                       {"finish_reason", openai_finish(a)}});
        }
        json["usage"] = openai_usage(work);
        if (!work.result.memory.policy.empty()) json["memory"] = memory_report(work.result.memory);
        return json_text(json);
    }
    std::string progress(const WorkProgress& p) override {
        Json json = chunk(0, "", nullptr);
        json["memory_progress"] = {{"read", p.read}, {"total", p.total}, {"held", p.held}};
        return event(json);
    }
    std::string delta(const AnswerDelta& d) override {
        Json json = chunk(d.choice, std::exchange(echo_, {}) + d.content, nullptr);
        json["choices"][0]["logprobs"] = likelihoods(d.likelihoods);
        return event(json);
    }
    std::string closing(const FinishedWork& work) override {
        std::string out;
        for (size_t i = 0; i < work.answers.size(); ++i) {
            Json json = chunk(i, "", openai_finish(work.answers[i]));
            if (i + 1 == work.answers.size() && !work.result.memory.policy.empty()) {
                json["memory"] = memory_report(work.result.memory);
            }
            out += event(json);
        }
        if (has_usage_) {
            Json json = head();
            json["choices"] = Json::array();
            json["usage"] = openai_usage(work);
            out += event(json);
        }
        return out + "data: [DONE]\n\n";
    }
    std::string failure(const ApiError& error) override {
        return event(error_json(error, ApiStyle::kOpenAi)) + "data: [DONE]\n\n";
    }

 private:
    [[nodiscard]] Json head() const {
        return {
            {"id", id_}, {"object", "text_completion"}, {"created", created_}, {"model", model_}};
    }
    [[nodiscard]] Json chunk(size_t choice, const std::string& text, const Json& finish) const {
        Json json = head();
        json["choices"] = Json::array({{{"index", choice},
                                        {"text", text},
                                        {"logprobs", nullptr},
                                        {"finish_reason", finish}}});
        return json;
    }
    [[nodiscard]] Json likelihoods(const std::vector<TokenLikelihood>& all) const {
        if (!has_likelihoods_) return nullptr;
        Json json = {{"tokens", Json::array()},
                     {"token_logprobs", Json::array()},
                     {"top_logprobs", Json::array()}};
        const auto letters = [this](TokenId t) { return service_.tokenizer().visible(t); };
        for (const TokenLikelihood& l : all) {
            json["tokens"].push_back(letters(l.token));
            json["token_logprobs"].push_back(l.log_probability);
            Json top = Json::object();
            for (const TokenLikelihood& o : l.likeliest) top[letters(o.token)] = o.log_probability;
            json["top_logprobs"].push_back(std::move(top));
        }
        return json;
    }

    std::string id_, model_;
    int64_t created_;
    bool has_usage_, has_likelihoods_;
    std::string echo_;
    const Service& service_;
};

std::vector<TokenId> tokens_in(const Service& service, const Fields& f, const std::string& name,
                               const RequestJson& list) {
    std::vector<TokenId> tokens;
    for (const RequestJson& item : list) {
        if (!item.is_number_integer() || item.get<int64_t>() < 0 ||
            item.get<int64_t>() >= service.tokenizer().n_vocab()) {
            f.refuse(name, "has something that is no token of this model");
        }
        tokens.push_back(item.get<TokenId>());
    }
    return tokens;
}

bool is_tokens(const RequestJson& value) {
    return value.is_array() && !value.empty() && value.front().is_number();
}

/// Takes the mean of hidden states of one text after another.
class EmbeddingRun final : public WorkListener {
 public:
    EmbeddingRun(Service& service, Call call, size_t n, bool is_coded)
        : service_(service), call_(std::move(call)), vectors_(n), left_(n), is_coded_(is_coded) {}

    /// One of the texts.
    class Part final : public WorkListener {
     public:
        Part(std::shared_ptr<EmbeddingRun> run, size_t i) : run_(std::move(run)), i_(i) {}
        void on_progress(const WorkProgress& /*progress*/) override {}
        void on_piece(WorkPiece /*piece*/) override {}
        void on_done(WorkResult result) override { run_->took(i_, std::move(result)); }
        void on_failed(const ApiError& error) override { run_->on_failed(error); }

     private:
        std::shared_ptr<EmbeddingRun> run_;
        size_t i_;
    };

    void on_progress(const WorkProgress& /*progress*/) override {}
    void on_piece(WorkPiece /*piece*/) override {}
    void on_done(WorkResult /*result*/) override {}
    void on_failed(const ApiError& error) override {
        if (!std::exchange(is_over_, true)) call_.fail(error);
    }

 private:
    void took(size_t i, WorkResult result) {
        n_tokens_ += result.n_prompt;
        vectors_[i] = std::move(result.mean_hidden);
        if (--left_ > 0 || std::exchange(is_over_, true)) return;
        Json data = Json::array();
        for (size_t n = 0; n < vectors_.size(); ++n) {
            data.push_back(
                {{"object", "embedding"}, {"index", n}, {"embedding", coded(vectors_[n])}});
        }
        call_.answer({{"object", "list"},
                      {"data", std::move(data)},
                      {"model", service_.model_name()},
                      {"usage", {{"prompt_tokens", n_tokens_}, {"total_tokens", n_tokens_}}}});
    }

    [[nodiscard]] Json coded(std::vector<float>& v) const {
        double norm = 0;
        for (const float x : v) norm += static_cast<double>(x) * static_cast<double>(x);
        norm = std::sqrt(std::max(norm, 1e-30));
        for (float& x : v) x = static_cast<float>(static_cast<double>(x) / norm);
        if (!is_coded_) return v;
        static constexpr std::string_view kLetters =
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        const auto* bytes = reinterpret_cast<const unsigned char*>(v.data());
        const size_t n = v.size() * sizeof(float);
        std::string out;
        for (size_t i = 0; i < n; i += 3) {
            uint32_t bits = 0;
            for (size_t j = 0; j < 3; ++j) bits = (bits << 8U) | (i + j < n ? bytes[i + j] : 0U);
            for (size_t j = 0; j < 4; ++j) {
                out += i + j <= n ? kLetters[(bits >> (18U - 6U * j)) & 63U] : '=';
            }
        }
        return out;
    }

    Service& service_;
    Call call_;
    std::vector<std::vector<float>> vectors_;
    size_t left_;
    bool is_coded_, is_over_ = false;
    int64_t n_tokens_ = 0;
};

}  // namespace

void handle_completions(Service& service, const Call& call) {
    const RequestJson body = call.body();
    const Fields f(body);
    ChatTask task = new_task(service, call, "cmpl-");
    const RequestJson& prompt = f.need("prompt");
    std::string text;
    if (prompt.is_string()) {
        text = prompt.get<std::string>();
        task.raw = {{.text = text}};
    } else if (is_tokens(prompt)) {
        task.tokens = tokens_in(service, f, "prompt", prompt);
    } else if (prompt.is_array() && prompt.size() == 1 && prompt[0].is_string()) {
        text = prompt[0].get<std::string>();
        task.raw = {{.text = text}};
    } else if (prompt.is_array() && prompt.size() == 1 && is_tokens(prompt[0])) {
        task.tokens = tokens_in(service, f, "prompt", prompt[0]);
    } else {
        f.refuse("prompt", "must be one text or one list of tokens; send several as requests");
    }
    if (f.has("suffix")) f.refuse("suffix", "is not supported");
    if (f.integer("best_of", 1, 1 << 20).value_or(1) > 1) f.refuse("best_of", "is not supported");
    task.answer.max_tokens = std::min<int64_t>(256, service.limits().max_tokens);
    read_sampling(service, f, task);
    read_memory(service, f, task);
    read_response_format(service, f, task);
    task.n_answers = f.integer("n", 1, service.limits().choices).value_or(1);
    const auto likeliest = f.integer("logprobs", 0, 20);
    if (likeliest) task.answer.n_likeliest = static_cast<int>(*likeliest);
    task.is_streamed = f.boolean("stream").value_or(false);
    bool has_usage = false;
    if (const auto o = f.object("stream_options")) {
        has_usage = o->boolean("include_usage").value_or(false);
    }
    task.session = session_of(call, f);
    const std::string echo = f.boolean("echo").value_or(false) ? text : "";
    auto form = std::make_unique<TextForm>(task.id, service.model_name(), has_usage,
                                           likeliest.has_value(), echo, service);
    answer_task(service, call, std::move(task), std::move(form));
}

void handle_embeddings(Service& service, const Call& call) {
    const RequestJson body = call.body();
    const Fields f(body);
    const RequestJson& input = f.need("input");
    std::vector<std::vector<Segment>> prompts;
    const auto add = [&](const RequestJson& one) {
        if (is_tokens(one)) {
            prompts.push_back({{.tokens = tokens_in(service, f, "input", one)}});
        } else if (one.is_string() && !one.get<std::string>().empty()) {
            const std::vector<TextPart> parts = {{.text = one.get<std::string>()}};
            prompts.push_back(service.tokenizer().encode_raw(parts));
        } else {
            f.refuse("input", "must be a text, tokens, or a list of these, none empty");
        }
    };
    if (input.is_array() && !is_tokens(input)) {
        for (const RequestJson& one : *f.list("input", service.limits().inputs)) add(one);
        if (prompts.empty()) f.refuse("input", "is empty");
    } else {
        add(input);
    }
    const std::string coding = f.text("encoding_format").value_or("float");
    if (coding != "float" && coding != "base64") {
        f.refuse("encoding_format", "must be float or base64");
    }
    const int64_t width = service.engine().config().n_embd;
    if (const auto n = f.integer("dimensions", 1, int64_t{1} << 30); n && *n != width) {
        f.refuse("dimensions", cat("must be ", width, ", which this model has"));
    }
    const auto run =
        std::make_shared<EmbeddingRun>(service, call, prompts.size(), coding == "base64");
    ++service.metrics().requests;
    for (size_t i = 0; i < prompts.size(); ++i) {
        Work work;
        work.prompt = std::move(prompts[i]);
        work.memory = service.options().memory;
        work.owner = call.owner;
        work.is_kept = false;
        const uint64_t id = service.scheduler().submit(
            std::move(work), std::make_shared<EmbeddingRun::Part>(run, i));
        if (i == 0) {
            call.exchange->on_gone([&service, id] { service.scheduler().cancel(id); });
        }
    }
}

}  // namespace palimpsest
