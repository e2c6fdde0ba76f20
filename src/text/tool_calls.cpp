#include "text/tool_calls.h"

#include "core/error.h"
#include "text/json_text.h"

#ifdef PALIMPSEST_HAS_JINJA

#include <chat.h>
#include <log.h>

#include <algorithm>
#include <exception>
#include <mutex>

#include "core/guarded_call.h"
#include "text/text_parts.h"

namespace palimpsest {

namespace {

using nlohmann::ordered_json;

constexpr GuardLimits kTrial = {.seconds = 10, .bytes = size_t{1} << 30U};
constexpr size_t kMostTools = 512;
constexpr size_t kMostName = 256;

[[noreturn]] void refuse_tool(size_t i, const std::string& why) {
    throw Error(ErrorCode::kInvalidArgument, cat("tool ", i, " ", why));
}

/// It writes to stderr what it thinks of templates and answers, and a library must not.
void quieten() {
    static std::once_flag once;
    std::call_once(once, [] { common_log_set_verbosity_thold(-1); });
}

bool is_text(const ordered_json& object, std::string_view name, std::string_view value) {
    const auto at = object.find(name);
    return at != object.end() && at->is_string() && *at == value;
}

std::vector<common_chat_tool> tools_of(const ToolRequest& request) {
    require(request.tools.is_array() && request.tools.size() <= kMostTools,
            "tools are a list of at most ", kMostTools);
    std::vector<common_chat_tool> all;
    for (size_t i = 0; i < request.tools.size(); ++i) {
        const ordered_json& tool = request.tools[i];
        if (!tool.is_object() || !is_text(tool, "type", "function") || !tool.contains("function") ||
            !tool["function"].is_object()) {
            refuse_tool(i, "is none: it must be {\"type\": \"function\", \"function\": {...}}");
        }
        const ordered_json& function = tool["function"];
        const auto name = function.find("name");
        if (name == function.end() || !name->is_string() || name->get<std::string>().empty() ||
            name->get<std::string>().size() > kMostName) {
            refuse_tool(i, cat("has no name of 1 to ", kMostName, " bytes"));
        }
        const auto parameters = function.find("parameters");
        const bool has_parameters = parameters != function.end() && !parameters->is_null();
        if (has_parameters && !parameters->is_object()) {
            refuse_tool(i, "has parameters that are no JSON schema");
        }
        const auto text = function.find("description");
        if (text != function.end() && !text->is_null() && !text->is_string()) {
            refuse_tool(i, "has a description that is no text");
        }
        all.push_back({.name = name->get<std::string>(),
                       .description = text != function.end() && text->is_string()
                                          ? text->get<std::string>()
                                          : "",
                       .parameters = has_parameters ? json_text(*parameters)
                                                    : R"({"type": "object", "properties": {}})"});
    }
    return all;
}

common_chat_tool_choice choice_of(ToolRequest::Choice choice) {
    switch (choice) {
        case ToolRequest::Choice::kAuto:
            return COMMON_CHAT_TOOL_CHOICE_AUTO;
        case ToolRequest::Choice::kRequired:
            return COMMON_CHAT_TOOL_CHOICE_REQUIRED;
        case ToolRequest::Choice::kNone:
            break;
    }
    return COMMON_CHAT_TOOL_CHOICE_NONE;
}

/// What the template comes to with these tools. The conversation is any: it changes neither grammar
/// nor parser.
common_chat_params applied(const std::string& chat_template, const ChatTemplate::Tokens& tokens,
                           const ToolRequest& request) {
    const common_chat_templates_ptr templates =
        common_chat_templates_init(nullptr, chat_template, tokens.bos, tokens.eos);
    common_chat_msg message;
    message.role = "user";
    message.content = "Hello.";
    common_chat_templates_inputs in;
    in.messages = {message};
    in.tools = tools_of(request);
    in.tool_choice = choice_of(request.choice);
    in.parallel_tool_calls = request.may_call_several;
    in.enable_thinking = request.may_think;
    in.reasoning_format = COMMON_REASONING_FORMAT_AUTO;
    return common_chat_templates_apply(templates.get(), in);
}

class CommonProtocol final : public ToolProtocol {
 public:
    explicit CommonProtocol(const common_chat_params& params)
        : grammar_(params.grammar), stops_(params.additional_stops), parser_(params) {
        parser_.reasoning_format = COMMON_REASONING_FORMAT_AUTO;
        if (!params.parser.empty()) parser_.parser.load(params.parser);
        if (!params.grammar_lazy) return;
        for (const common_grammar_trigger& t : params.grammar_triggers) {
            using enum GrammarTrigger::Kind;
            const auto kind = t.type == COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN        ? kPattern
                              : t.type == COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN_FULL ? kWholePattern
                                                                                   : kWord;
            triggers_.push_back({.kind = kind, .value = t.value});
        }
    }

    [[nodiscard]] const std::string& grammar() const override { return grammar_; }
    [[nodiscard]] const std::vector<GrammarTrigger>& triggers() const override { return triggers_; }
    [[nodiscard]] const std::vector<std::string>& stops() const override { return stops_; }
    [[nodiscard]] const std::string& instructions() const override { return none_; }

    [[nodiscard]] ParsedAnswer parse(const std::string& answer, bool is_partial) const override {
        try {
            const common_chat_msg said = common_chat_parse(answer, is_partial, parser_);
            ParsedAnswer parsed = {said.content, said.reasoning_content, {}};
            for (const common_chat_tool_call& c : said.tool_calls) {
                parsed.calls.push_back({.name = c.name, .arguments = c.arguments, .id = c.id});
            }
            return parsed;
        } catch (const std::exception& e) {
            throw Error(ErrorCode::kCorrupt,
                        cat("the answer is not of the template's form: ", e.what()));
        }
    }

 private:
    std::string grammar_, none_;
    std::vector<GrammarTrigger> triggers_;
    std::vector<std::string> stops_;
    common_chat_parser_params parser_;
};

constexpr std::string_view kCallsBegin = "{\"tool_calls\"";

/// White space may stand in it, as in all JSON.
bool begins_calls(std::string_view said, bool is_partial) {
    std::string begin;
    for (const char c : said.substr(0, 64)) {
        if (!is_space(c)) begin += c;
    }
    return begin.starts_with(kCallsBegin) || (is_partial && kCallsBegin.starts_with(begin));
}

/// For templates that do not know of tools: calls are JSON of a form of ours.
class PlainProtocol final : public ToolProtocol {
 public:
    explicit PlainProtocol(const ToolRequest& request) {
        ordered_json forms = ordered_json::array();
        instructions_ = "You can call these tools:\n";
        for (const ordered_json& tool : request.tools) {
            const ordered_json& function = tool["function"];
            ordered_json parameters = {{"type", "object"}, {"properties", ordered_json::object()}};
            if (function.contains("parameters") && function["parameters"].is_object()) {
                parameters = function["parameters"];
            }
            instructions_ += json_text(function) + "\n";
            forms.push_back({{"type", "object"},
                             {"properties",
                              {{"name", {{"const", function["name"]}}}, {"arguments", parameters}}},
                             {"required", {"name", "arguments"}},
                             {"additionalProperties", false}});
        }
        instructions_ +=
            "To call one, answer with nothing but JSON of this form:\n"
            "{\"tool_calls\": [{\"name\": \"a tool\", \"arguments\": {}}]}\n"
            "You will be told what it returned.";
        const ordered_json calls = {
            {"type", "array"},
            {"items", {{"anyOf", forms}}},
            {"minItems", 1},
            {"maxItems", 1}};  // models that were not taught do not know when to stop
        const ordered_json schema = {{"type", "object"},
                                     {"properties", {{"tool_calls", calls}}},
                                     {"required", {"tool_calls"}},
                                     {"additionalProperties", false}};
        grammar_ = grammar_of_schema(json_text(schema));
        if (request.choice == ToolRequest::Choice::kAuto) {
            triggers_.push_back(
                {.kind = GrammarTrigger::Kind::kWord, .value = std::string(kCallsBegin)});
        }
    }

    [[nodiscard]] const std::string& grammar() const override { return grammar_; }
    [[nodiscard]] const std::vector<GrammarTrigger>& triggers() const override { return triggers_; }
    [[nodiscard]] const std::vector<std::string>& stops() const override { return stops_; }
    [[nodiscard]] const std::string& instructions() const override { return instructions_; }

    [[nodiscard]] ParsedAnswer parse(const std::string& answer, bool is_partial) const override {
        const std::string_view said = strip(answer);
        if (!begins_calls(said, is_partial)) {
            return {.content = answer, .reasoning = {}, .calls = {}};
        }
        const auto json = parse_json<ordered_json>(said);
        if (!json.is_object()) {
            if (is_partial) return {};
            return {.content = answer, .reasoning = {}, .calls = {}};  // cut short
        }
        ParsedAnswer parsed;
        for (const ordered_json& call : json.value("tool_calls", ordered_json::array())) {
            if (!call.is_object() || !call.contains("name") || !call["name"].is_string()) continue;
            parsed.calls.push_back(
                {.name = call["name"],
                 .arguments = json_text(call.value("arguments", ordered_json::object())),
                 .id = {}});
        }
        return parsed;
    }

 private:
    std::string grammar_, instructions_;
    std::vector<GrammarTrigger> triggers_;
    std::vector<std::string> stops_;
};

}  // namespace

std::unique_ptr<const ToolProtocol> ToolProtocol::make(const std::string& chat_template,
                                                       const ChatTemplate::Tokens& tokens,
                                                       const ToolRequest& request) {
    quieten();
    static_cast<void>(tools_of(request));  // what is wrong with them is theirs, not the template's
    const auto refuse = [](const std::string& why) {
        throw Error(ErrorCode::kUnsupported,
                    cat("the chat template cannot be used with these tools: ", why));
    };
    const GuardedResult tried = guarded_call(kTrial, [&] {
        try {
            static_cast<void>(applied(chat_template, tokens, request));
        } catch (const std::exception& e) {
            return std::string(e.what());
        }
        return std::string();
    });
    if (!tried.ended.empty()) refuse(cat("a trial of it ", tried.ended));
    if (!tried.text.empty()) refuse(tried.text);
    try {
        const common_chat_params params = applied(chat_template, tokens, request);
        const bool has_tools =
            !request.tools.empty() && request.choice != ToolRequest::Choice::kNone;
        // A template that writes the same without them has no place for tools.
        if (has_tools && params.prompt == applied(chat_template, tokens, {}).prompt) {
            return std::make_unique<const PlainProtocol>(request);
        }
        return std::make_unique<const CommonProtocol>(params);
    } catch (const std::exception& e) {
        refuse(e.what());
    }
    return nullptr;
}

}  // namespace palimpsest

#else

namespace palimpsest {

std::unique_ptr<const ToolProtocol> ToolProtocol::make(const std::string& /*chat_template*/,
                                                       const ChatTemplate::Tokens& /*tokens*/,
                                                       const ToolRequest& /*request*/) {
    throw Error(ErrorCode::kUnsupported,
                "this build lacks libllama-common, which knows how templates call tools");
}

}  // namespace palimpsest

#endif

namespace palimpsest {

std::vector<ChatMessage> as_plain_messages(std::vector<ChatMessage> messages,
                                           const std::string& instructions) {
    for (ChatMessage& m : messages) {
        if (!m.calls.empty()) {
            nlohmann::ordered_json calls = nlohmann::ordered_json::array();
            for (const MessageCall& c : m.calls) {
                auto arguments = parse_json<nlohmann::ordered_json>(c.arguments);
                if (!arguments.is_object()) arguments = nlohmann::ordered_json::object();
                calls.push_back({{"name", c.name}, {"arguments", arguments}});
            }
            m.parts.push_back({.text = json_text(nlohmann::ordered_json{{"tool_calls", calls}})});
            m.calls.clear();
        }
        if (m.role != "tool") continue;
        m.role = "user";
        m.parts.insert(m.parts.begin(),
                       {.text = cat("The tool ", m.name, m.name.empty() ? "" : " ", "returned: ")});
        m.name.clear();
        m.call_id.clear();
    }
    if (instructions.empty()) return messages;
    if (messages.empty() || messages.front().role != "system") {
        messages.insert(messages.begin(), {.role = "system", .parts = {{.text = instructions}}});
    } else {
        messages.front().parts.push_back({.text = cat("\n\n", instructions)});
    }
    return messages;
}

}  // namespace palimpsest
