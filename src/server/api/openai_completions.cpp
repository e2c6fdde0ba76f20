// POST /v1/completions and /v1/embeddings, as OpenAI's clients speak them.

#include <atomic>
#include <cmath>
#include <functional>
#include <memory>

#include "core/base64.h"
#include "core/error.h"
#include "server/api/openai.h"
#include "text/json_text.h"
#include "text/utf8.h"

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
        Json json = chunk(d.choice, echo(d.choice) + d.content, nullptr);
        json["choices"][0]["logprobs"] = likelihoods(d.likelihoods);
        return event(json);
    }
    std::string closing(const FinishedWork& work) override {
        std::string out;
        for (size_t i = 0; i < work.answers.size(); ++i) {
            Json json = chunk(i, echo(i), openai_finish(work.answers[i]));
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
    /// The prompt, once for each answer.
    std::string echo(size_t choice) {
        if (told_.size() <= choice) told_.resize(choice + 1);
        const bool is_told = told_[choice];
        told_[choice] = true;
        return is_told ? "" : echo_;
    }
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
        // A token that is half a character has no text; others of its like must not share a name.
        const auto letters = [this](TokenId t) {
            const std::string bytes = service_.tokenizer().visible(t);
            if (!find_invalid_utf8(bytes)) return bytes;
            static constexpr std::string_view kDigits = "0123456789abcdef";
            std::string text = "bytes:";
            for (const char c : bytes) {
                text += "\\x";
                text += kDigits[static_cast<unsigned char>(c) / 16];
                text += kDigits[static_cast<unsigned char>(c) % 16];
            }
            return text;
        };
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
    std::vector<bool> told_;
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

/// Takes the mean of hidden states of one text after another: the next is asked for when one is
/// there, so that many texts take one place in the queue.
class EmbeddingRun final : public WorkListener, public std::enable_shared_from_this<EmbeddingRun> {
 public:
    using Answer = std::function<Json(std::vector<std::vector<float>>& vectors, int64_t n_tokens)>;

    EmbeddingRun(Service& service, Call call, std::vector<std::vector<Segment>> prompts,
                 Answer answer)
        : service_(service),
          call_(std::move(call)),
          prompts_(std::move(prompts)),
          answer_(std::move(answer)) {}

    void begin() {
        call_.exchange->on_gone([weak = weak_from_this()] {
            if (const auto self = weak.lock()) self->cancel();
        });
        next();
    }

    void on_progress(const WorkProgress& /*progress*/) override {}
    void on_piece(WorkPiece /*piece*/) override {}
    void on_done(WorkResult result) override {
        n_tokens_ += result.n_prompt;
        vectors_.push_back(normalised(std::move(result.mean_hidden)));
        try {
            if (vectors_.size() < prompts_.size()) return next();
            call_.answer(answer_(vectors_, n_tokens_));
        } catch (...) {
            on_failed(current_api_error());
        }
    }
    void on_failed(const ApiError& error) override { call_.fail(error); }

 private:
    void next() {
        Work work;
        work.prompt = prompts_[vectors_.size()];
        work.memory = service_.options().memory;
        work.memory.prefixes.clear();  // what a text means does not depend on them
        work.memory.prefix_gate = false;
        work.owner = call_.owner;
        work.is_kept = false;
        if (is_cancelled_) return;
        id_ = service_.scheduler().submit(std::move(work), shared_from_this());
    }
    void cancel() {
        is_cancelled_ = true;
        service_.scheduler().cancel(id_);
    }
    static std::vector<float> normalised(std::vector<float> v) {
        double norm = 0;
        for (const float x : v) norm += static_cast<double>(x) * static_cast<double>(x);
        norm = std::sqrt(std::max(norm, 1e-30));
        for (float& x : v) x = static_cast<float>(static_cast<double>(x) / norm);
        return v;
    }

    Service& service_;
    Call call_;
    std::vector<std::vector<Segment>> prompts_;
    Answer answer_;
    std::vector<std::vector<float>> vectors_;
    int64_t n_tokens_ = 0;
    std::atomic<uint64_t> id_ = 0;
    std::atomic<bool> is_cancelled_ = false;
};

/// As numbers, or as the bytes of 32-bit ones in base64.
Json coded(const std::vector<float>& v, bool is_coded) {
    if (!is_coded) return v;
    return to_base64(std::as_bytes(std::span(v)));
}

/// Texts, or tokens, that a field has: one, or a list of them.
std::vector<std::vector<Segment>> prompts_in(const Service& service, const Fields& f,
                                             const std::string& name) {
    std::vector<std::vector<Segment>> prompts;
    const auto add = [&](const RequestJson& one) {
        if (is_tokens(one)) {
            prompts.push_back({{.tokens = tokens_in(service, f, name, one)}});
        } else if (one.is_string() && !one.get<std::string>().empty()) {
            const std::vector<TextPart> parts = {{.text = one.get<std::string>()}};
            prompts.push_back(service.tokenizer().encode_raw(parts));
        } else {
            f.refuse(name, "must be a text, tokens, or a list of these, none empty");
        }
    };
    const RequestJson& input = f.need(name);
    if (input.is_array() && !is_tokens(input)) {
        for (const RequestJson& one : *f.list(name, service.limits().inputs)) add(one);
        if (prompts.empty()) f.refuse(name, "is empty");
    } else {
        add(input);
    }
    return prompts;
}

void embed(Service& service, const Call& call, std::vector<std::vector<Segment>> prompts,
           EmbeddingRun::Answer answer) {
    ++service.metrics().requests;
    std::make_shared<EmbeddingRun>(service, call, std::move(prompts), std::move(answer))->begin();
}

}  // namespace

void handle_completions(Service& service, const Call& call) {
    const RequestJson body = call.body();
    const Fields f(body);
    ChatTask task = new_task(service, "cmpl-");
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
    if (!f.text("suffix").value_or("").empty()) f.refuse("suffix", "is not supported");
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
    const std::string coding = f.text("encoding_format").value_or("float");
    if (coding != "float" && coding != "base64") {
        f.refuse("encoding_format", "must be float or base64");
    }
    const int64_t width = service.engine().config().n_embd;
    if (const auto n = f.integer("dimensions", 1, int64_t{1} << 30); n && *n != width) {
        f.refuse("dimensions", cat("must be ", width, ", which this model has"));
    }
    embed(service, call, prompts_in(service, f, "input"),
          [model = service.model_name(), is_coded = coding == "base64"](auto& vectors, int64_t n) {
              Json data = Json::array();
              for (size_t i = 0; i < vectors.size(); ++i) {
                  data.push_back({{"object", "embedding"},
                                  {"index", i},
                                  {"embedding", coded(vectors[i], is_coded)}});
              }
              return Json{{"object", "list"},
                          {"data", std::move(data)},
                          {"model", model},
                          {"usage", {{"prompt_tokens", n}, {"total_tokens", n}}}};
          });
}

void handle_ollama_embed(Service& service, const Call& call) {
    const RequestJson body = call.body();
    const Fields f(body);
    embed(service, call, prompts_in(service, f, "input"),
          [model = service.model_name()](auto& vectors, int64_t n) {
              return Json{{"model", model}, {"embeddings", vectors}, {"prompt_eval_count", n}};
          });
}

void handle_ollama_embeddings(Service& service, const Call& call) {
    const RequestJson body = call.body();
    const Fields f(body);
    auto prompts = prompts_in(service, f, "prompt");
    if (prompts.size() != 1) f.refuse("prompt", "must be one text");
    embed(service, call, std::move(prompts), [](auto& vectors, int64_t /*n*/) {
        return Json{{"embedding", vectors.front()}};
    });
}

}  // namespace palimpsest
