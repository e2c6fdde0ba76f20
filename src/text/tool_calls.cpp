#include "text/tool_calls.h"

#include "core/error.h"

#ifdef PALIMPSEST_HAS_JINJA

#include <chat.h>
#include <log.h>

#include <exception>
#include <mutex>

#include "core/guarded_call.h"
#include "text/json_text.h"

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

std::vector<common_chat_tool> tools_of(const ToolRequest& request) {
    require(request.tools.is_array() && request.tools.size() <= kMostTools,
            "tools are a list of at most ", kMostTools);
    std::vector<common_chat_tool> all;
    for (size_t i = 0; i < request.tools.size(); ++i) {
        const ordered_json& tool = request.tools[i];
        if (!tool.is_object() || tool.value("type", "") != "function" ||
            !tool.contains("function") || !tool["function"].is_object()) {
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
    std::string grammar_;
    std::vector<GrammarTrigger> triggers_;
    std::vector<std::string> stops_;
    common_chat_parser_params parser_;
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
        return std::make_unique<const CommonProtocol>(applied(chat_template, tokens, request));
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
