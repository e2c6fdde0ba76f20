// /api/..., as Ollama's clients speak it.

#include <array>
#include <ctime>

#include "core/error.h"
#include "server/api/chat_task.h"
#include "text/json_text.h"

namespace palimpsest {

namespace {

// The version of Ollama's API that this one is like, for clients that ask for a least one.
constexpr const char* kVersion = "0.6.4";

std::string iso_time(std::time_t time) {
    std::tm parts{};
    gmtime_r(&time, &parts);
    std::array<char, 32> text{};
    std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
    return text.data();
}

int64_t nanoseconds(double seconds) { return static_cast<int64_t>(seconds * 1e9); }

class OllamaForm final : public AnswerForm {
 public:
    OllamaForm(std::string model, bool is_chat, std::string id)
        : model_(std::move(model)), is_chat_(is_chat), id_(std::move(id)) {}

    std::string content_type() const override { return "application/x-ndjson"; }

    std::string whole(const FinishedWork& work) override {
        const ParsedAnswer& a = work.answers.front().parsed;
        return json_text(last(work, a.content, a.reasoning, a.calls));
    }
    std::string progress(const WorkProgress& p) override {
        Json json = line("", "", {});
        json["memory_progress"] = {{"read", p.read}, {"total", p.total}, {"held", p.held}};
        return json_text(json) + "\n";
    }
    std::string delta(const AnswerDelta& d) override {
        std::string out;
        if (!d.content.empty() || !d.reasoning.empty()) {
            out = json_text(line(d.content, d.reasoning, {})) + "\n";
        }
        // Arguments are an object here, so a call is told once it is whole.
        for (const AnswerDelta::Call& c : d.calls) {
            if (!c.name.empty()) call_ = {.name = c.name, .arguments = {}, .id = c.id};
            if (c.arguments.empty()) continue;
            call_.arguments = c.arguments;
            out += json_text(line("", "", {call_})) + "\n";
        }
        return out;
    }
    std::string closing(const FinishedWork& work) override {
        return json_text(last(work, "", "", {})) + "\n";
    }
    std::string failure(const ApiError& error) override {
        return json_text(error_json(error, ApiStyle::kOllama)) + "\n";
    }

 private:
    [[nodiscard]] Json line(const std::string& content, const std::string& thinking,
                            const std::vector<ToolCall>& calls) const {
        Json json = {{"model", model_}, {"created_at", iso_time(std::time(nullptr))}};
        if (!is_chat_) {
            json["response"] = content;
            if (!thinking.empty()) json["thinking"] = thinking;
        } else {
            json["message"] = {{"role", "assistant"}, {"content", content}};
            if (!thinking.empty()) json["message"]["thinking"] = thinking;
            for (const ToolCall& c : calls) {
                Json arguments = parse_json<Json>(c.arguments);
                if (!arguments.is_object()) arguments = Json::object();
                json["message"]["tool_calls"].push_back(
                    {{"function", {{"name", c.name}, {"arguments", arguments}}}});
            }
        }
        json["done"] = false;
        return json;
    }
    [[nodiscard]] Json last(const FinishedWork& work, const std::string& content,
                            const std::string& thinking, const std::vector<ToolCall>& calls) const {
        const WorkResult& r = work.result;
        Json json = line(content, thinking, calls);
        json["done"] = true;
        json["done_reason"] =
            work.answers.front().reason == StopReason::kLength ? "length" : "stop";
        json["total_duration"] = nanoseconds(r.first_token_s + r.written_s);
        json["load_duration"] = 0;
        json["prompt_eval_count"] = r.n_prompt;
        json["prompt_eval_duration"] = nanoseconds(r.read_s);
        json["eval_count"] = work.n_written();
        json["eval_duration"] = nanoseconds(r.written_s);
        if (r.memory.policy.empty()) return json;
        json["memory"] = memory_report(r.memory);
        json["memory"]["id"] = id_;
        json["memory"]["cached_tokens"] = r.n_cached;
        return json;
    }

    std::string model_;
    bool is_chat_;
    std::string id_;
    ToolCall call_;
};

void read_options(const Service& service, const Fields& f, ChatTask& task) {
    if (const auto options = f.object("options")) {
        read_sampling(service, *options, task);
        if (const auto n = options->integer("num_predict", -2, int64_t{1} << 40); n && *n > 0) {
            task.answer.max_tokens = std::min(*n, service.limits().max_tokens);
        }
    } else {
        read_sampling(service, Fields(RequestJson::object()), task);
    }
    if (const RequestJson* format = f.find("format")) {
        if (format->is_object()) {
            set_schema(service, *format, "format", task);
        } else if (*format == "json") {
            task.schema = R"({"type": "object"})";
        } else if (*format != "") {
            f.refuse("format", "must be 'json' or a JSON schema");
        }
    }
    if (const RequestJson* think = f.find("think")) {
        // Some models have levels; all of them think.
        if (!think->is_boolean() && !think->is_string()) f.refuse("think", "must be true or false");
        task.tools.may_think = !think->is_boolean() || think->get<bool>();
    }
    task.is_streamed = f.boolean("stream").value_or(true);
}

void refuse_images(const Fields& f) {
    const RequestJson* images = f.find("images");
    if (images != nullptr && !images->empty()) {
        f.refuse("images", "cannot be seen by this model; it reads text only");
    }
}

ChatMessage read_message(const Fields& f) {
    ChatMessage m = {.role = f.text("role").value_or("")};
    if (m.role != "system" && m.role != "user" && m.role != "assistant" && m.role != "tool") {
        f.refuse("role", cat("is '", m.role, "'; it must be system, user, assistant or tool"));
    }
    refuse_images(f);
    m.parts.push_back({.text = f.text("content").value_or("")});
    m.reasoning = f.text("thinking").value_or("");
    m.name = f.text("tool_name").value_or(f.text("name").value_or(""));
    if (m.role != "tool") m.name.clear();
    const RequestJson* calls = f.list("tool_calls", 256);
    for (size_t i = 0; calls != nullptr && i < calls->size(); ++i) {
        const Fields call = f.item("tool_calls", *calls, i);
        const auto function = call.object("function");
        if (!function) call.refuse("function", "is missing");
        const RequestJson* arguments = function->find("arguments");
        m.calls.push_back({.id = call.text("id").value_or(""),
                           .name = function->text("name").value_or(""),
                           .arguments = arguments == nullptr ? "{}" : json_text(*arguments)});
    }
    return m;
}

Json model_details(const Service& service) {
    const std::string& family = service.engine().config().architecture;
    return {{"parent_model", ""},   {"format", "gguf"},     {"family", family},
            {"families", {family}}, {"parameter_size", ""}, {"quantization_level", ""}};
}

Json model_line(const Service& service) {
    return {{"name", service.model_name()},
            {"model", service.model_name()},
            {"modified_at", iso_time(service.started())},
            {"size", 0},
            {"digest", ""},
            {"details", model_details(service)}};
}

}  // namespace

void handle_ollama_chat(Service& service, const Call& call) {
    const RequestJson body = call.body();
    const Fields f(body);
    ChatTask task = new_task(service, "ollama-");
    const RequestJson* messages = f.list("messages", service.limits().messages);
    if (messages == nullptr) f.refuse("messages", "are missing");
    if (messages->empty()) {  // asks for the model to be loaded, and it is
        return call.answer({{"model", service.model_name()},
                            {"created_at", iso_time(std::time(nullptr))},
                            {"message", {{"role", "assistant"}, {"content", ""}}},
                            {"done", true},
                            {"done_reason", "load"}});
    }
    for (size_t i = 0; i < messages->size(); ++i) {
        task.messages.push_back(read_message(f.item("messages", *messages, i)));
    }
    read_options(service, f, task);
    read_memory(service, f, task);
    task.tools.tools = tools_in(service, f);
    task.tools.may_call_several = true;
    remember_messages(task);
    task.session = session_of(call, f);
    auto form = std::make_unique<OllamaForm>(service.model_name(), true, task.id);
    answer_task(service, call, std::move(task), std::move(form));
}

void handle_ollama_generate(Service& service, const Call& call) {
    const RequestJson body = call.body();
    const Fields f(body);
    ChatTask task = new_task(service, "ollama-");
    const std::string prompt = f.text("prompt").value_or("");
    refuse_images(f);
    for (const char* name : {"suffix", "template"}) {
        if (!f.text(name).value_or("").empty()) f.refuse(name, "is not supported");
    }
    if (const RequestJson* context = f.find("context"); context != nullptr && !context->empty()) {
        f.refuse("context", "is not supported; send the conversation to /api/chat");
    }
    if (prompt.empty()) {  // asks for the model to be loaded, and it is
        return call.answer({{"model", service.model_name()},
                            {"created_at", iso_time(std::time(nullptr))},
                            {"response", ""},
                            {"done", true},
                            {"done_reason", "load"}});
    }
    if (f.boolean("raw").value_or(false)) {
        task.raw = {{.text = prompt}};
    } else {
        if (const auto system = f.text("system"); system && !system->empty()) {
            task.messages.push_back({.role = "system", .parts = {{.text = *system}}});
        }
        task.messages.push_back({.role = "user", .parts = {{.text = prompt}}});
        remember_messages(task);
    }
    read_options(service, f, task);
    read_memory(service, f, task);
    task.session = session_of(call, f);
    auto form = std::make_unique<OllamaForm>(service.model_name(), false, task.id);
    answer_task(service, call, std::move(task), std::move(form));
}

void handle_ollama_tags(Service& service, const Call& call) {
    call.answer({{"models", Json::array({model_line(service)})}});
}

void handle_ollama_ps(Service& service, const Call& call) {
    Json line = model_line(service);
    line["expires_at"] = "2100-01-01T00:00:00Z";
    line["size_vram"] = 0;
    call.answer({{"models", Json::array({line})}});
}

void handle_ollama_show(Service& service, const Call& call) {
    const ModelConfig& c = service.engine().config();
    Json capabilities = {"completion"};
    if (has_jinja()) capabilities.push_back("tools");  // by a form of ours, if not the template's
    call.answer({{"license", ""},
                 {"modelfile", ""},
                 {"parameters", ""},
                 {"template", service.tokenizer().chat_template_text()},
                 {"details", model_details(service)},
                 {"model_info",
                  {{"general.architecture", c.architecture},
                   {"general.basename", c.name},
                   {cat(c.architecture, ".context_length"), c.n_ctx_train},
                   {cat(c.architecture, ".embedding_length"), c.n_embd}}},
                 {"capabilities", capabilities},
                 {"modified_at", iso_time(service.started())}});
}

void handle_ollama_version(Service& /*service*/, const Call& call) {
    call.answer({{"version", kVersion}});
}

}  // namespace palimpsest
