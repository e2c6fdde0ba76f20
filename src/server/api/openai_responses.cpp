// POST /v1/responses, as OpenAI's clients and Codex speak it.

#include <algorithm>

#include "core/error.h"
#include "server/api/openai.h"
#include "text/json_text.h"

namespace palimpsest {

namespace {

class ResponseForm final : public AnswerForm {
 public:
    ResponseForm(std::string id, std::string model, const Fields& f)
        : id_(std::move(id)),
          model_(std::move(model)),
          created_(static_cast<int64_t>(std::time(nullptr))) {
        for (const char* name :
             {"instructions", "previous_response_id", "temperature", "top_p", "max_output_tokens",
              "metadata", "tools", "tool_choice", "text", "parallel_tool_calls"}) {
            const RequestJson* value = f.find(name);
            if (value != nullptr) echoed_[name] = *value;
        }
    }

    /// One that was given before, of which the request is not remembered.
    ResponseForm(std::string id, std::string model, int64_t created)
        : id_(std::move(id)), model_(std::move(model)), created_(created) {}

    Json given(const ParsedAnswer& answer) {
        build_items(answer);
        return response("completed", nullptr);
    }
    std::string whole(const FinishedWork& work) override {
        const std::string status = status_of(work);
        build_items(work.answers.front().parsed);
        if (items_.back().contains("status")) items_.back()["status"] = status;
        return json_text(response(status, &work));
    }
    std::string opening() override {
        const Json begun = {{"response", response("in_progress", nullptr)}};
        std::string out = tell("response.created", begun);
        out += tell("response.in_progress", begun);
        return out;
    }
    std::string progress(const WorkProgress& p) override {
        Json json = {{"response", bare("in_progress")}};
        json["memory_progress"] = {{"read", p.read}, {"total", p.total}, {"held", p.held}};
        return tell("response.in_progress", json);
    }
    std::string delta(const AnswerDelta& d) override {
        std::string out;
        if (!d.reasoning.empty()) {
            out += open(Kind::kReasoning);
            reasoning_ += d.reasoning;
            out += tell("response.reasoning_text.delta", {{"item_id", item_id_},
                                                          {"output_index", index()},
                                                          {"content_index", 0},
                                                          {"delta", d.reasoning}});
        }
        if (!d.content.empty()) {
            out += open(Kind::kMessage);
            text_ += d.content;
            out += tell("response.output_text.delta", {{"item_id", item_id_},
                                                       {"output_index", index()},
                                                       {"content_index", 0},
                                                       {"delta", d.content},
                                                       {"logprobs", Json::array()}});
        }
        for (const AnswerDelta::Call& c : d.calls) {
            if (!c.name.empty()) {
                out += close();
                call_ = {.name = c.name, .arguments = {}, .id = c.id};
                out += open(Kind::kCall);
            }
            if (c.arguments.empty()) continue;
            call_.arguments += c.arguments;
            out += tell("response.function_call_arguments.delta",
                        {{"item_id", item_id_}, {"output_index", index()}, {"delta", c.arguments}});
        }
        return out;
    }
    std::string closing(const FinishedWork& work) override {
        const std::string status = status_of(work);
        std::string out = close(status);
        out += tell(status == "completed" ? "response.completed" : "response.incomplete",
                    {{"response", response(status, &work)}});
        return out;
    }
    std::string failure(const ApiError& error) override {
        Json json = response("failed", nullptr);
        json["error"] = {{"code", error.code.empty() ? "server_error" : error.code},
                         {"message", error.what()}};
        return tell("response.failed", {{"response", json}});
    }

 private:
    enum class Kind { kNone, kReasoning, kMessage, kCall };

    [[nodiscard]] int64_t index() const { return std::ssize(items_); }

    std::string tell(std::string_view type, const Json& more) {
        Json json = {{"type", type}, {"sequence_number", n_events_++}};
        json.update(more);
        return event(type, json);
    }

    static std::string status_of(const FinishedWork& work) {
        return work.answers.front().reason == StopReason::kLength ? "incomplete" : "completed";
    }

    /// The item that is being written, as far as it is.
    [[nodiscard]] Json item(const std::string& status) const {
        switch (kind_) {
            case Kind::kReasoning:
                return {
                    {"id", item_id_},
                    {"type", "reasoning"},
                    {"summary", Json::array()},
                    {"content", Json::array({{{"type", "reasoning_text"}, {"text", reasoning_}}})}};
            case Kind::kCall:
                return {{"id", item_id_},     {"type", "function_call"},
                        {"status", status},   {"call_id", call_.id},
                        {"name", call_.name}, {"arguments", call_.arguments}};
            default:
                return {{"id", item_id_},
                        {"type", "message"},
                        {"status", status},
                        {"role", "assistant"},
                        {"content", Json::array({part()})}};
        }
    }
    [[nodiscard]] Json part() const {
        return {{"type", "output_text"}, {"text", text_}, {"annotations", Json::array()}};
    }

    std::string open(Kind kind) {
        if (kind_ == kind && kind != Kind::kCall) return "";
        std::string out = close();
        kind_ = kind;
        item_id_ = new_id(kind == Kind::kMessage ? "msg_" : kind == Kind::kCall ? "fc_" : "rs_");
        text_.clear();
        reasoning_.clear();
        Json begun = item("in_progress");
        if (kind != Kind::kCall) begun["content"] = Json::array();
        out += tell("response.output_item.added", {{"output_index", index()}, {"item", begun}});
        if (kind == Kind::kMessage) {
            out += tell("response.content_part.added", {{"item_id", item_id_},
                                                        {"output_index", index()},
                                                        {"content_index", 0},
                                                        {"part", part()}});
        }
        return out;
    }

    std::string close(const std::string& status = "completed") {
        if (kind_ == Kind::kNone) return "";
        std::string out;
        if (kind_ == Kind::kMessage) {
            out += tell("response.output_text.done", {{"item_id", item_id_},
                                                      {"output_index", index()},
                                                      {"content_index", 0},
                                                      {"text", text_},
                                                      {"logprobs", Json::array()}});
            out += tell("response.content_part.done", {{"item_id", item_id_},
                                                       {"output_index", index()},
                                                       {"content_index", 0},
                                                       {"part", part()}});
        } else if (kind_ == Kind::kCall) {
            out += tell("response.function_call_arguments.done", {{"item_id", item_id_},
                                                                  {"output_index", index()},
                                                                  {"name", call_.name},
                                                                  {"arguments", call_.arguments}});
        }
        const Json done = item(status);
        out += tell("response.output_item.done", {{"output_index", index()}, {"item", done}});
        items_.push_back(done);
        kind_ = Kind::kNone;
        return out;
    }

    /// Of an answer at once.
    void build_items(const ParsedAnswer& a) {
        const auto add = [this](Kind kind) {
            kind_ = kind;
            item_id_ = new_id(kind == Kind::kMessage ? "msg_"
                              : kind == Kind::kCall  ? "fc_"
                                                     : "rs_");
            items_.push_back(item("completed"));
        };
        reasoning_ = a.reasoning;
        text_ = a.content;
        if (!reasoning_.empty()) add(Kind::kReasoning);
        if (!text_.empty() || a.calls.empty()) add(Kind::kMessage);
        for (const ToolCall& c : a.calls) {
            call_ = c;
            add(Kind::kCall);
        }
        kind_ = Kind::kNone;
    }

    /// Without what the request said.
    [[nodiscard]] Json bare(const std::string& status) const {
        return {{"id", id_},
                {"object", "response"},
                {"created_at", created_},
                {"status", status},
                {"model", model_},
                {"output", items_},
                {"error", nullptr},
                {"incomplete_details", nullptr},
                {"instructions", nullptr},
                {"previous_response_id", nullptr},
                {"tools", Json::array()},
                {"tool_choice", "auto"},
                {"parallel_tool_calls", true},
                {"metadata", Json::object()},
                {"temperature", nullptr},
                {"top_p", nullptr},
                {"max_output_tokens", nullptr},
                {"text", {{"format", {{"type", "text"}}}}}};
    }

    [[nodiscard]] Json response(const std::string& status, const FinishedWork* work) const {
        Json json = bare(status);
        json.update(echoed_);
        if (status == "incomplete") json["incomplete_details"] = {{"reason", "max_output_tokens"}};
        if (work == nullptr) return json;
        const WorkResult& r = work->result;
        json["usage"] = {{"input_tokens", r.n_prompt},
                         {"input_tokens_details", {{"cached_tokens", r.n_cached}}},
                         {"output_tokens", work->n_written()},
                         {"output_tokens_details", {{"reasoning_tokens", 0}}},
                         {"total_tokens", r.n_prompt + work->n_written()}};
        add_memory(json["usage"], json, r.memory);
        return json;
    }

    std::string id_, model_;
    int64_t created_;
    Json echoed_ = Json::object();
    Json items_ = Json::array();
    int64_t n_events_ = 0;
    Kind kind_ = Kind::kNone;
    std::string item_id_, text_, reasoning_;
    ToolCall call_;
};

void read_content(const Fields& item, const std::string& name, ChatMessage& to) {
    const RequestJson& content = item.need(name);
    if (content.is_string()) {
        to.parts.push_back({.text = content.get<std::string>()});
        return;
    }
    if (!content.is_array()) item.refuse(name, "must be a text, or a list of parts");
    for (size_t i = 0; i < content.size(); ++i) {
        const Fields part = item.item(name, content, i);
        const std::string kind = part.text("type").value_or("");
        if (kind == "input_text" || kind == "output_text" || kind == "text" ||
            kind == "summary_text") {
            to.parts.push_back({.text = part.text("text").value_or("")});
        } else if (kind == "refusal") {
            to.parts.push_back({.text = part.text("refusal").value_or("")});
        } else if (kind == "input_file" && part.has("file_data")) {
            to.parts.push_back(
                {.text = text_of_data(*part.text("file_data"), part.path("file_data")),
                 .is_context = true});
        } else {
            part.refuse("type", cat("is '", kind, "'; this model reads text and text files only"));
        }
    }
}

/// One item of `input`. Calls join the message of the assistant before them.
void read_item(const Fields& item, ChatTask& task) {
    const std::string kind = item.text("type").value_or("message");
    std::vector<ChatMessage>& messages = task.messages;
    if (kind == "message") {
        ChatMessage m;
        m.role = item.text("role").value_or("user");
        if (m.role == "developer") m.role = "system";
        if (m.role != "system" && m.role != "user" && m.role != "assistant") {
            item.refuse("role",
                        cat("is '", m.role, "'; it must be system, developer, user or assistant"));
        }
        if (item.has("content")) read_content(item, "content", m);
        if (m.parts.empty()) m.parts.push_back({.text = ""});
        messages.push_back(std::move(m));
    } else if (kind == "function_call") {
        if (messages.empty() || messages.back().role != "assistant") {
            messages.push_back({.role = "assistant", .parts = {{.text = ""}}});
        }
        messages.back().calls.push_back({.id = item.text("call_id").value_or(""),
                                         .name = item.text("name").value_or(""),
                                         .arguments = item.text("arguments").value_or("{}")});
    } else if (kind == "function_call_output") {
        ChatMessage m = {.role = "tool", .call_id = item.text("call_id").value_or("")};
        read_content(item, "output", m);
        messages.push_back(std::move(m));
    } else if (kind != "reasoning" && kind != "item_reference") {
        item.refuse("type", cat("is '", kind, "', which is not supported"));
    }
}

/// A conversation as it was when a response was given, whatever came after.
struct Given {
    std::vector<ChatMessage> messages = {};
    std::string key = {}, id = {};  // of the conversation
    int64_t used = 0;
};

/// Throws ApiError 404.
Given given_by(Service& service, const Call& call, const std::string& id) {
    Given given;
    int64_t n = 0;
    const std::string messages = service.ask([&](SequenceTable& table) {
        Remembered& r = table.find(call.owner, id);
        const auto at = std::ranges::find(r.head.responses, id, &Responded::id);
        if (at == r.head.responses.end()) throw ApiError(404, "that is no response");
        given = {.key = r.head.key, .id = r.head.id, .used = r.head.used};
        n = at->n_messages;
        return table.messages_of(r);
    });
    const RequestJson json = {{"messages", parse_json<RequestJson>(messages)}};
    ChatTask before;
    read_openai_messages(service, Fields(json), before);
    if (std::ssize(before.messages) > n) before.messages.resize(static_cast<size_t>(n));
    given.messages = std::move(before.messages);
    return given;
}

void read_previous(Service& service, const Call& call, const std::string& id, ChatTask& task) {
    Given given;
    try {
        given = given_by(service, call, id);
    } catch (const ApiError&) {
        throw ApiError(400, cat("no response is called '", id, "', or it was forgotten"),
                       "previous_response_id", "previous_response_not_found");
    }
    task.messages = std::move(given.messages);
    if (task.session.empty()) task.session = given.key;
    task.from = given.id;
}

/// Tools of other kinds run at the provider, and there is none here: the model is not told of them.
void read_response_tools(const Service& service, const Fields& f, ChatTask& task) {
    const RequestJson& tools = tools_in(service, f);
    for (size_t i = 0; i < tools.size(); ++i) {
        const Fields tool = f.item("tools", tools, i);
        if (tool.text("type").value_or("") != "function") continue;
        RequestJson function = {{"name", tool.text("name").value_or("")},
                                {"description", tool.text("description").value_or("")}};
        if (const RequestJson* p = tool.find("parameters")) function["parameters"] = *p;
        task.tools.tools.push_back({{"type", "function"}, {"function", std::move(function)}});
    }
    read_tool_choice(f, task);
}

}  // namespace

void handle_responses(Service& service, const Call& call) {
    const RequestJson body = call.body();
    const Fields f(body);
    ChatTask task = new_task(service, "resp_");
    task.session = session_of(call, f);
    if (const auto previous = f.text("previous_response_id")) {
        read_previous(service, call, *previous, task);
    }
    const RequestJson& input = f.need("input");
    if (input.is_string()) {
        task.messages.push_back({.role = "user", .parts = {{.text = input.get<std::string>()}}});
    } else {
        const RequestJson* items = f.list("input", service.limits().messages);
        for (size_t i = 0; i < items->size(); ++i) read_item(f.item("input", *items, i), task);
    }
    if (task.messages.empty()) f.refuse("input", "is empty");
    int64_t n_parts = 0;
    for (const ChatMessage& m : task.messages) n_parts += std::ssize(m.parts);
    if (n_parts > service.limits().parts) {
        f.refuse("input", cat("has more than ", service.limits().parts, " parts"));
    }
    name_results(task.messages);
    remember_messages(task);
    // These are of this response alone, and not remembered.
    if (const auto text = f.text("instructions"); text && !text->empty()) {
        task.messages.insert(task.messages.begin(), {.role = "system", .parts = {{.text = *text}}});
    }
    if (f.has("metadata") && !f.object("metadata")) f.refuse("metadata", "must be an object");
    read_sampling(service, f, task);
    if (const auto n = f.integer("max_output_tokens", 1, int64_t{1} << 40)) {
        task.answer.max_tokens = std::min(*n, service.limits().max_tokens);
    }
    read_memory(service, f, task);
    task.tools.may_call_several = f.boolean("parallel_tool_calls").value_or(true);
    read_response_tools(service, f, task);
    if (const auto text = f.object("text")) {
        if (const auto format = text->object("format")) read_format(service, *format, "", task);
    }
    task.is_streamed = f.boolean("stream").value_or(false);
    auto form = std::make_unique<ResponseForm>(task.id, service.model_name(), f);
    task.is_private = f.boolean("store") == false;
    answer_task(service, call, std::move(task), std::move(form));
}

void handle_response(Service& service, const Call& call) {
    const std::string& id = call.params.front();
    const Given given = given_by(service, call, id);
    if (given.messages.empty() || given.messages.back().role != "assistant") {
        throw ApiError(404, cat("of response '", id, "' nothing is left"));
    }
    const ChatMessage& message = given.messages.back();
    ParsedAnswer answer = {
        .content = text_of(message), .reasoning = message.reasoning, .calls = {}};
    for (const MessageCall& c : message.calls) {
        answer.calls.push_back({.name = c.name, .arguments = c.arguments, .id = c.id});
    }
    call.answer(ResponseForm(id, service.model_name(), given.used).given(answer));
}

}  // namespace palimpsest
