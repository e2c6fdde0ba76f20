// POST /v1/messages and count_tokens, as Anthropic's clients and Claude Code speak them.

#include <algorithm>

#include "core/error.h"
#include "server/api/chat_task.h"
#include "text/json_text.h"

namespace palimpsest {

namespace {

class MessageForm final : public AnswerForm {
 public:
    MessageForm(std::string id, std::string model, std::vector<std::string> stops)
        : id_(std::move(id)), model_(std::move(model)), stops_(std::move(stops)) {}

    std::string whole(const FinishedWork& work) override {
        const FinishedAnswer& a = work.answers.front();
        Json content = Json::array();
        if (!a.parsed.reasoning.empty()) {
            content.push_back(
                {{"type", "thinking"}, {"thinking", a.parsed.reasoning}, {"signature", ""}});
        }
        if (!a.parsed.content.empty() || a.parsed.calls.empty()) {
            content.push_back({{"type", "text"}, {"text", a.parsed.content}});
        }
        for (const ToolCall& c : a.parsed.calls) {
            content.push_back({{"type", "tool_use"},
                               {"id", c.id},
                               {"name", c.name},
                               {"input", object_of(c.arguments)}});
        }
        Json json = message(std::move(content));
        json["stop_reason"] = reason_of(a);
        if (is_stop_text(a)) json["stop_sequence"] = a.stop_text;
        json["usage"] = usage(work);
        add_memory(json["usage"], json, work.result.memory);
        return json_text(json);
    }
    std::string opening() override {
        Json json = message(Json::array());
        json["usage"] = {{"input_tokens", 0}, {"output_tokens", 0}};
        return event("message_start", {{"type", "message_start"}, {"message", json}});
    }
    std::string progress(const WorkProgress& p) override {
        return event("ping", {{"type", "ping"},
                              {"memory_progress",
                               {{"read", p.read}, {"total", p.total}, {"held", p.held}}}});
    }
    std::string delta(const AnswerDelta& d) override {
        std::string out;
        if (!d.reasoning.empty()) {
            out += open("thinking", {{"type", "thinking"}, {"thinking", ""}, {"signature", ""}});
            out += more({{"type", "thinking_delta"}, {"thinking", d.reasoning}});
        }
        if (!d.content.empty()) {
            out += open("text", {{"type", "text"}, {"text", ""}});
            out += more({{"type", "text_delta"}, {"text", d.content}});
        }
        for (const AnswerDelta::Call& c : d.calls) {
            if (!c.name.empty()) {
                out += close();
                out += open("tool_use", {{"type", "tool_use"},
                                         {"id", c.id},
                                         {"name", c.name},
                                         {"input", Json::object()}});
            }
            if (!c.arguments.empty()) {
                out += more({{"type", "input_json_delta"}, {"partial_json", c.arguments}});
            }
        }
        return out;
    }
    std::string closing(const FinishedWork& work) override {
        const FinishedAnswer& a = work.answers.front();
        std::string out;
        if (n_blocks_ == 0) out += open("text", {{"type", "text"}, {"text", ""}});
        out += close();
        Json stop = {{"stop_reason", reason_of(a)}, {"stop_sequence", nullptr}};
        if (is_stop_text(a)) stop["stop_sequence"] = a.stop_text;
        Json last = {{"type", "message_delta"}, {"delta", stop}, {"usage", usage(work)}};
        add_memory(last["usage"], last, work.result.memory);
        out += event("message_delta", last);
        return out + event("message_stop", {{"type", "message_stop"}});
    }
    std::string failure(const ApiError& error) override {
        return event("error", error_json(error, ApiStyle::kAnthropic));
    }

 private:
    [[nodiscard]] Json message(Json content) const {
        return {{"id", id_},
                {"type", "message"},
                {"role", "assistant"},
                {"model", model_},
                {"content", std::move(content)},
                {"stop_reason", nullptr},
                {"stop_sequence", nullptr}};
    }
    static Json object_of(const std::string& arguments) {
        Json json = parse_json<Json>(arguments);
        return json.is_object() ? json : Json::object();
    }
    [[nodiscard]] bool is_stop_text(const FinishedAnswer& a) const {
        return a.reason == StopReason::kStopText &&
               std::ranges::find(stops_, a.stop_text) != stops_.end();
    }
    [[nodiscard]] std::string reason_of(const FinishedAnswer& a) const {
        if (!a.parsed.calls.empty()) return "tool_use";
        if (a.reason == StopReason::kLength) return "max_tokens";
        return is_stop_text(a) ? "stop_sequence" : "end_turn";
    }
    static Json usage(const FinishedWork& work) {
        const WorkResult& r = work.result;
        return {{"input_tokens", r.n_prompt - r.n_cached},
                {"cache_creation_input_tokens", 0},
                {"cache_read_input_tokens", r.n_cached},
                {"output_tokens", work.n_written()}};
    }
    std::string open(const std::string& kind, const Json& block) {
        if (kind == kind_ && kind != "tool_use") return "";
        std::string out = close();
        kind_ = kind;
        return out + event("content_block_start", {{"type", "content_block_start"},
                                                   {"index", n_blocks_},
                                                   {"content_block", block}});
    }
    [[nodiscard]] std::string more(const Json& delta) const {
        return event("content_block_delta",
                     {{"type", "content_block_delta"}, {"index", n_blocks_}, {"delta", delta}});
    }
    std::string close() {
        if (kind_.empty()) return "";
        kind_.clear();
        return event("content_block_stop",
                     {{"type", "content_block_stop"}, {"index", n_blocks_++}});
    }

    std::string id_, model_;
    std::vector<std::string> stops_;
    std::string kind_;
    int64_t n_blocks_ = 0;
};

/// The text of a text, or of a list of blocks of text.
std::string plain_text(const Fields& f, const std::string& name, const RequestJson& value) {
    if (value.is_string()) return value.get<std::string>();
    if (!value.is_array()) f.refuse(name, "must be a text, or a list of blocks");
    std::string text;
    for (size_t i = 0; i < value.size(); ++i) {
        const Fields block = f.item(name, value, i);
        const std::string kind = block.text("type").value_or("");
        if (kind != "text")
            block.refuse("type", cat("is '", kind, "'; this model reads text only"));
        if (i > 0) text += "\n\n";
        text += block.text("text").value_or("");
    }
    return text;
}

void read_document(const Fields& block, ChatMessage& to) {
    const auto source = block.object("source");
    if (!source) block.refuse("source", "is missing");
    const std::string kind = source->text("type").value_or("");
    std::string text;
    if (kind == "text") {
        text = source->text("data").value_or("");
    } else if (kind == "content") {
        text = plain_text(*source, "content", source->need("content"));
    } else if (kind == "base64" && source->text("media_type").value_or("").starts_with("text/")) {
        text = text_of_data(source->text("data").value_or(""), source->path("data"));
    } else {
        source->refuse("type", cat("is '", kind, "'; this model reads documents of text only"));
    }
    if (const auto title = block.text("title")) to.parts.push_back({.text = cat(*title, ":\n")});
    to.parts.push_back({.text = text, .is_context = true});
    to.parts.push_back({.text = "\n\n"});
}

void read_blocks(const Fields& message, const RequestJson& blocks, ChatTask& task,
                 const std::string& role) {
    ChatMessage m = {.role = role};
    for (size_t i = 0; i < blocks.size(); ++i) {
        const Fields block = message.item("content", blocks, i);
        const std::string kind = block.text("type").value_or("");
        if (kind == "text") {
            if (!m.parts.empty() && !m.parts.back().text.ends_with("\n\n")) {
                m.parts.push_back({.text = "\n\n"});
            }
            m.parts.push_back({.text = block.text("text").value_or("")});
        } else if (kind == "document") {
            read_document(block, m);
        } else if (kind == "thinking") {
            m.reasoning += block.text("thinking").value_or("");
        } else if (kind == "tool_use") {
            const RequestJson* input = block.find("input");
            m.calls.push_back({.id = block.text("id").value_or(""),
                               .name = block.text("name").value_or(""),
                               .arguments = input == nullptr ? "{}" : json_text(*input)});
        } else if (kind == "tool_result") {
            ChatMessage result = {.role = "tool",
                                  .call_id = block.text("tool_use_id").value_or("")};
            const RequestJson* content = block.find("content");
            result.parts.push_back(
                {.text = content == nullptr ? "" : plain_text(block, "content", *content)});
            task.messages.push_back(std::move(result));
        } else if (kind != "redacted_thinking") {
            block.refuse("type", cat("is '", kind, "'; this model reads text only"));
        }
    }
    if (m.parts.empty() && m.calls.empty()) return;
    if (m.parts.empty()) m.parts.push_back({.text = ""});
    task.messages.push_back(std::move(m));
}

void read_messages(const Service& service, const Fields& f, ChatTask& task) {
    if (const RequestJson* system = f.find("system")) {
        const std::string text = plain_text(f, "system", *system);
        if (!text.empty()) {
            task.messages.push_back({.role = "system", .parts = {{.text = text}}});
        }
    }
    const RequestJson* messages = f.list("messages", service.limits().messages);
    if (messages == nullptr || messages->empty()) f.refuse("messages", "are missing");
    int64_t n_parts = 0;
    for (size_t i = 0; i < messages->size(); ++i) {
        const Fields message = f.item("messages", *messages, i);
        const std::string role = message.text("role").value_or("");
        if (role != "user" && role != "assistant" && role != "system") {
            message.refuse("role", cat("is '", role, "'; it must be user or assistant"));
        }
        const RequestJson& content = message.need("content");
        if (content.is_string()) {
            task.messages.push_back(
                {.role = role, .parts = {{.text = content.get<std::string>()}}});
        } else if (content.is_array()) {
            n_parts += std::ssize(content);
            if (n_parts > service.limits().parts) {
                f.refuse("messages", cat("have more than ", service.limits().parts, " blocks"));
            }
            read_blocks(message, content, task, role);
        } else {
            message.refuse("content", "must be a text, or a list of blocks");
        }
    }
    if (task.messages.empty()) f.refuse("messages", "say nothing");
    name_results(task.messages);
    remember_messages(task);
}

/// Tools that run at the provider are not here: the model is not told of them.
void read_anthropic_tools(const Service& service, const Fields& f, ChatTask& task) {
    const RequestJson& tools = tools_in(service, f);
    for (size_t i = 0; i < tools.size(); ++i) {
        const Fields tool = f.item("tools", tools, i);
        if (!tool.has("input_schema")) continue;
        task.tools.tools.push_back({{"type", "function"},
                                    {"function",
                                     {{"name", tool.text("name").value_or("")},
                                      {"description", tool.text("description").value_or("")},
                                      {"parameters", tool.need("input_schema")}}}});
    }
    const auto choice = f.object("tool_choice");
    task.tools.may_call_several = true;
    if (!choice) return;
    const std::string kind = choice->text("type").value_or("auto");
    task.tools.may_call_several = !choice->boolean("disable_parallel_tool_use").value_or(false);
    if (kind == "none") {
        task.tools.choice = ToolRequest::Choice::kNone;
    } else if (kind == "any") {
        if (task.tools.tools.empty()) choice->refuse("type", "is 'any', and there are no tools");
        task.tools.choice = ToolRequest::Choice::kRequired;
    } else if (kind == "tool") {
        force_tool(choice->text("name").value_or(""), "tool_choice.name", task);
    } else if (kind != "auto") {
        choice->refuse("type", cat("is '", kind, "'; it must be auto, any, tool or none"));
    }
}

}  // namespace

void handle_messages(Service& service, const Call& call) {
    const RequestJson body = call.body();
    const Fields f(body);
    ChatTask task = new_task(service, "msg_");
    read_messages(service, f, task);
    read_sampling(service, f, task);
    if (!f.has("max_tokens")) f.refuse("max_tokens", "is missing");
    if (const auto thinking = f.object("thinking")) {
        const std::string kind = thinking->text("type").value_or("");
        if (kind != "enabled" && kind != "disabled" && kind != "adaptive") {
            thinking->refuse("type",
                             cat("is '", kind, "'; it must be enabled, disabled or adaptive"));
        }
        task.tools.may_think = kind != "disabled";
    }
    if (f.has("stop_sequences")) {
        read_stops(service, f, "stop_sequences", task);
    }
    if (const auto output = f.object("output_config")) {
        if (const auto format = output->object("format")) {
            if (format->text("type") != "json_schema")
                format->refuse("type", "must be json_schema");
            set_schema(service, format->need("schema"), format->path("schema"), task);
        }
    }
    read_memory(service, f, task);
    read_anthropic_tools(service, f, task);
    task.is_streamed = f.boolean("stream").value_or(false);
    task.session = session_of(call, f);
    auto form = std::make_unique<MessageForm>(task.id, service.model_name(), task.answer.stop);
    answer_task(service, call, std::move(task), std::move(form));
}

void handle_count_tokens(Service& service, const Call& call) {
    const RequestJson body = call.body();
    const Fields f(body);
    ChatTask task = new_task(service, "msg_");
    read_messages(service, f, task);
    read_anthropic_tools(service, f, task);
    call.answer({{"input_tokens", length_of(prompt_of(service, task), 1)}});
}

}  // namespace palimpsest
