// POST /v1/chat/completions, as OpenAI's clients speak it.

#include "core/error.h"
#include "server/api/chat_task.h"
#include "server/api/openai.h"
#include "text/json_text.h"

namespace palimpsest {

namespace {

class ChatForm final : public AnswerForm {
 public:
    ChatForm(std::string id, std::string model, int64_t created, bool has_usage,
             bool has_likelihoods, const Service& service)
        : id_(std::move(id)),
          model_(std::move(model)),
          created_(created),
          has_usage_(has_usage),
          has_likelihoods_(has_likelihoods),
          service_(service) {}

    std::string whole(const FinishedWork& work) override {
        Json choices = Json::array();
        for (size_t i = 0; i < work.answers.size(); ++i) {
            const FinishedAnswer& a = work.answers[i];
            Json choice = {{"index", i}, {"message", message_json(a.parsed)}};
            choice["logprobs"] = nullptr;
            if (has_likelihoods_) choice["logprobs"] = openai_likelihoods(service_, a.likelihoods);
            choice["finish_reason"] = openai_finish(a);
            choices.push_back(std::move(choice));
        }
        Json json = {
            {"id", id_},       {"object", "chat.completion"},   {"created", created_},
            {"model", model_}, {"choices", std::move(choices)}, {"usage", openai_usage(work)}};
        if (!work.result.memory.policy.empty()) json["memory"] = memory_report(work.result.memory);
        return json_text(json);
    }

    std::string progress(const WorkProgress& p) override {
        Json chunk = first(0, Json::object());
        chunk["memory_progress"] = {{"read", p.read}, {"total", p.total}, {"held", p.held}};
        return event(chunk);
    }

    std::string delta(const AnswerDelta& d) override {
        Json delta = Json::object();
        if (!d.content.empty()) delta["content"] = d.content;
        if (!d.reasoning.empty()) delta["reasoning_content"] = d.reasoning;
        for (const AnswerDelta::Call& c : d.calls) {
            Json call = {{"index", c.index}};
            if (!c.name.empty()) {
                call["id"] = c.id;
                call["type"] = "function";
                call["function"]["name"] = c.name;
            }
            call["function"]["arguments"] = c.arguments;
            delta["tool_calls"].push_back(std::move(call));
        }
        Json chunk = first(d.choice, std::move(delta));
        if (has_likelihoods_) {
            chunk["choices"][0]["logprobs"] = openai_likelihoods(service_, d.likelihoods);
        }
        return event(chunk);
    }

    std::string closing(const FinishedWork& work) override {
        std::string out;
        for (size_t i = 0; i < work.answers.size(); ++i) {
            Json chunk = first(i, Json::object());
            chunk["choices"][0]["finish_reason"] = openai_finish(work.answers[i]);
            if (i + 1 == work.answers.size() && !work.result.memory.policy.empty()) {
                chunk["memory"] = memory_report(work.result.memory);
            }
            out += event(chunk);
        }
        if (has_usage_) {
            Json chunk = head();
            chunk["choices"] = Json::array();
            chunk["usage"] = openai_usage(work);
            out += event(chunk);
        }
        return out + "data: [DONE]\n\n";
    }

    std::string failure(const ApiError& error) override {
        return event(error_json(error, ApiStyle::kOpenAi)) + "data: [DONE]\n\n";
    }

 private:
    [[nodiscard]] Json head() const {
        Json json = {{"id", id_},
                     {"object", "chat.completion.chunk"},
                     {"created", created_},
                     {"model", model_}};
        if (has_usage_) json["usage"] = nullptr;
        return json;
    }
    /// The first delta of an answer says who speaks.
    [[nodiscard]] Json first(size_t choice, Json delta) {
        if (told_role_.size() <= choice) told_role_.resize(choice + 1);
        if (!told_role_[choice]) {
            Json with_role = {{"role", "assistant"}, {"content", ""}};
            with_role.update(delta);
            delta = std::move(with_role);
        }
        told_role_[choice] = true;
        Json json = head();
        json["choices"] = Json::array({{{"index", choice},
                                        {"delta", std::move(delta)},
                                        {"logprobs", nullptr},
                                        {"finish_reason", nullptr}}});
        return json;
    }

    std::string id_, model_;
    int64_t created_;
    bool has_usage_, has_likelihoods_;
    const Service& service_;
    std::vector<bool> told_role_;
};

void read_parts(const Fields& message, const RequestJson& parts, ChatMessage& to) {
    for (size_t i = 0; i < parts.size(); ++i) {
        const Fields part = message.item("content", parts, i);
        const std::string kind = part.text("type").value_or("");
        if (kind == "text" || kind == "input_text" || kind == "output_text") {
            to.parts.push_back({.text = part.text("text").value_or("")});
        } else if (kind == "file") {
            const auto file = part.object("file");
            if (!file) part.refuse("file", "is missing");
            if (!file->has("file_data"))
                file->refuse("file_data", "is missing: files are sent whole");
            const std::string name = file->text("filename").value_or("");
            const std::string text =
                text_of_data(*file->text("file_data"), file->path("file_data"));
            if (!name.empty()) to.parts.push_back({.text = cat(name, ":\n")});
            to.parts.push_back({.text = text, .is_context = true});
            to.parts.push_back({.text = "\n\n"});
        } else if (kind == "refusal") {
            to.parts.push_back({.text = part.text("refusal").value_or("")});
        } else {
            part.refuse("type", cat("is '", kind, "'; this model reads text and text files only"));
        }
    }
}

void read_calls(const Fields& message, const RequestJson& calls, ChatMessage& to) {
    for (size_t i = 0; i < calls.size(); ++i) {
        const Fields call = message.item("tool_calls", calls, i);
        const auto function = call.object("function");
        if (!function) call.refuse("function", "is missing");
        to.calls.push_back({.id = call.text("id").value_or(""),
                            .name = function->text("name").value_or(""),
                            .arguments = function->text("arguments").value_or("{}")});
    }
}

ChatMessage read_message(const Fields& f) {
    ChatMessage m;
    m.role = f.text("role").value_or("");
    if (m.role == "developer") m.role = "system";
    if (m.role == "function") m.role = "tool";
    if (m.role != "system" && m.role != "user" && m.role != "assistant" && m.role != "tool") {
        f.refuse("role",
                 cat("is '", m.role, "'; it must be system, developer, user, assistant or tool"));
    }
    if (const RequestJson* content = f.find("content")) {
        if (content->is_string()) {
            m.parts.push_back({.text = content->get<std::string>()});
        } else if (content->is_array()) {
            read_parts(f, *content, m);
        } else {
            f.refuse("content", "must be a text, or a list of parts");
        }
    }
    if (m.parts.empty()) m.parts.push_back({.text = ""});
    if (const RequestJson* calls = f.list("tool_calls", 256)) read_calls(f, *calls, m);
    m.reasoning = f.text("reasoning_content").value_or("");
    m.call_id = f.text("tool_call_id").value_or("");
    if (m.role == "tool") m.name = f.text("name").value_or("");
    return m;
}

}  // namespace

void read_openai_messages(const Service& service, const Fields& f, ChatTask& task) {
    const RequestJson* messages = f.list("messages", service.limits().messages);
    if (messages == nullptr || messages->empty()) f.refuse("messages", "are missing");
    int64_t n_parts = 0;
    for (size_t i = 0; i < messages->size(); ++i) {
        task.messages.push_back(read_message(f.item("messages", *messages, i)));
        n_parts += std::ssize(task.messages.back().parts);
        if (n_parts > service.limits().parts) {
            f.refuse("messages", cat("have more than ", service.limits().parts, " parts"));
        }
    }
    name_results(task.messages);
    task.messages_json = json_text(*messages);
    task.n_messages = std::ssize(*messages);
}

void read_response_format(const Service& service, const Fields& f, ChatTask& task) {
    if (const auto format = f.object("response_format")) {
        read_format(service, *format, "json_schema", task);
    }
}

void handle_chat_completions(Service& service, const Call& call) {
    const RequestJson body = call.body();
    const Fields f(body);
    ChatTask task = new_task(service, "chatcmpl-");
    read_openai_messages(service, f, task);
    read_sampling(service, f, task);
    read_memory(service, f, task);
    task.tools.tools = tools_in(service, f);
    for (const char* old : {"functions", "function_call"}) {
        if (f.has(old)) f.refuse(old, "is of an older API; use tools and tool_choice");
    }
    task.tools.may_call_several = f.boolean("parallel_tool_calls").value_or(true);
    read_tool_choice(f, task);
    read_response_format(service, f, task);
    task.n_answers = f.integer("n", 1, service.limits().choices).value_or(1);
    const bool has_likelihoods = f.boolean("logprobs").value_or(false);
    const auto n_likeliest = f.integer("top_logprobs", 0, 20);
    if (n_likeliest && !has_likelihoods) f.refuse("top_logprobs", "needs 'logprobs': true");
    if (has_likelihoods) task.answer.n_likeliest = static_cast<int>(n_likeliest.value_or(0));
    task.is_private = f.boolean("store") == false;
    task.is_streamed = f.boolean("stream").value_or(false);
    bool has_usage = false;
    if (const auto o = f.object("stream_options")) {
        has_usage = o->boolean("include_usage").value_or(false);
    }
    task.session = session_of(call, f);
    auto form = std::make_unique<ChatForm>(task.id, service.model_name(),
                                           static_cast<int64_t>(std::time(nullptr)), has_usage,
                                           has_likelihoods, service);
    answer_task(service, call, std::move(task), std::move(form));
}

}  // namespace palimpsest
