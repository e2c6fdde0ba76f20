#include "text/jinja.h"

#include "core/error.h"

#ifdef PALIMPSEST_HAS_JINJA

#include <jinja/lexer.h>
#include <jinja/parser.h>
#include <jinja/runtime.h>
#include <json-schema-to-grammar.h>
#include <json.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <utility>

#include "core/guarded_call.h"
#include "text/json_text.h"

namespace palimpsest {

namespace {

using nlohmann::ordered_json;

constexpr size_t kMostBytes = size_t{256} * 1024;  // real ones have up to 60 KB
// Real templates take milliseconds and a few megabytes.
constexpr GuardLimits kTrial = {.seconds = 5, .bytes = size_t{512} << 20U};

// Inside JSON (of tools, and of what they were called with) the engine cannot tell a user's words
// from a template's. There, a character that no text has (U+FDD0) follows every letter that
// special tokens begin with, and pieces end at it: so no piece has a special token of theirs. Where
// a text does have it, it stands twice.
constexpr std::string_view kSeam = "\xEF\xB7\x90";

std::string with_seams(const std::string& text) {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
        out += text[i];
        if (text[i] == '<' || text[i] == '[') out += kSeam;
        if (std::string_view(text).substr(0, i + 1).ends_with(kSeam)) out += kSeam;
    }
    return out;
}

/// The same of every text and name in it.
ordered_json with_seams(const ordered_json& value) {
    if (value.is_string()) return with_seams(value.get<std::string>());
    if (value.is_array()) {
        ordered_json out = ordered_json::array();
        for (const ordered_json& item : value) out.push_back(with_seams(item));
        return out;
    }
    if (!value.is_object()) return value;
    ordered_json out = ordered_json::object();
    for (const auto& [name, item] : value.items()) out[with_seams(name)] = with_seams(item);
    return out;
}

/// Appends what lies between seams, piece by piece.
void append_pieces(std::string_view text, std::vector<RenderedPiece>& to) {
    std::string piece;
    const auto flush = [&] {
        if (!piece.empty()) to.push_back({.text = std::exchange(piece, {})});
    };
    while (!text.empty()) {
        const size_t at = std::min(text.find(kSeam), text.size());
        piece += text.substr(0, at);
        text.remove_prefix(at);
        if (text.empty()) break;
        text.remove_prefix(kSeam.size());
        if (text.starts_with(kSeam)) {
            piece += kSeam;
            text.remove_prefix(kSeam.size());
        } else {
            flush();
        }
    }
    flush();
}

/// As templates take them: arguments as values, where they are such.
ordered_json to_json(const MessageCall& call) {
    ordered_json arguments = parse_json<ordered_json>(call.arguments);
    if (!arguments.is_object()) arguments = call.arguments;
    ordered_json out = {
        {"type", "function"},
        {"function", {{"name", with_seams(call.name)}, {"arguments", with_seams(arguments)}}}};
    if (!call.id.empty()) out["id"] = with_seams(call.id);
    return out;
}

ordered_json to_json(const ChatMessage& message) {
    ordered_json out = {{"role", message.role}, {"content", text_of(message)}};
    if (!message.reasoning.empty()) out["reasoning_content"] = with_seams(message.reasoning);
    for (const MessageCall& call : message.calls) out["tool_calls"].push_back(to_json(call));
    if (!message.call_id.empty()) out["tool_call_id"] = with_seams(message.call_id);
    if (!message.name.empty()) out["name"] = with_seams(message.name);
    return out;
}

/// Marks what messages say as theirs. Roles are words of ours, which templates build tokens with.
void mark_messages(jinja::context& context) {
    const jinja::value messages = context.get_val("messages");
    for (const jinja::value& message : messages->as_array()) {
        const jinja::value content = message->at("content");
        content->val_str.mark_input();
    }
}

class JinjaTemplate final : public ChatTemplate {
 public:
    JinjaTemplate(const std::string& text, Tokens tokens) : tokens_(std::move(tokens)) {
        jinja::lexer lexer;
        const jinja::lexer_result result = lexer.tokenize(text);
        program_ = jinja::parse_from_tokens(result);
        source_ = result.source;
    }

    [[nodiscard]] std::vector<RenderedPiece> render(const TemplateInput& input) const override {
        try {
            return pieces(input);
        } catch (const std::exception& e) {
            throw Error(ErrorCode::kUnsupported,
                        cat("the chat template refuses this conversation: ", e.what(),
                            "; change it, name another template, or use raw text"));
        }
    }

    [[nodiscard]] std::string source() const override { return source_; }
    [[nodiscard]] std::string kind() const override { return "Jinja"; }

 private:
    [[nodiscard]] std::vector<RenderedPiece> pieces(const TemplateInput& input) const {
        ordered_json all = {{"bos_token", tokens_.bos},
                            {"eos_token", tokens_.eos},
                            {"add_generation_prompt", input.begins_answer},
                            {"messages", ordered_json::array()}};
        for (const ChatMessage& m : input.messages) all["messages"].push_back(to_json(m));
        if (!input.tools.is_null()) all["tools"] = with_seams(input.tools);
        jinja::context context(source_);
        context.current_time = input.now;
        jinja::global_from_json(context, common_json::parse(json_text(all)), false);
        mark_messages(context);
        jinja::runtime runtime(context);
        const auto result = jinja::runtime::gather_string_parts(runtime.execute(program_));
        std::vector<RenderedPiece> out;
        for (const jinja::string_part& p : result->as_string().parts) {
            if (!p.is_input) append_pieces(p.val, out);
            if (p.is_input && !p.val.empty()) out.push_back({.text = p.val, .is_message = true});
        }
        return out;
    }

    Tokens tokens_;
    jinja::program program_;
    std::string source_;
};

/// A conversation that asks of a template what ours will.
std::vector<ChatMessage> trial_messages() {
    return {{"system", {{"Be brief."}}},
            {"user", {{"Name three rivers."}}},
            {"assistant", {{"Rhine, Nile, Amur."}}},
            {"user", {{"And a lake?"}}}};
}

/// In a process of its own: parses, and renders conversations with and without a system message.
std::string trial(const std::string& text, const ChatTemplate::Tokens& tokens) {
    const JinjaTemplate t(text, tokens);
    const std::vector<ChatMessage> messages = trial_messages();
    std::string refusal;
    for (const size_t first : {size_t{0}, size_t{1}}) {
        try {
            (void)t.render({.messages = std::span(messages).subspan(first)});
            return "";
        } catch (const Error& e) {
            refusal = e.what();
        }
    }
    return refusal;
}

}  // namespace

bool has_jinja() { return true; }

std::unique_ptr<const ChatTemplate> make_jinja_template(const std::string& text,
                                                        const ChatTemplate::Tokens& tokens) {
    const auto refuse = [](const std::string& why) -> Error {
        return {ErrorCode::kUnsupported, cat("the model's chat template cannot be used: ", why)};
    };
    if (text.size() > kMostBytes) {
        throw refuse(cat("it has ", text.size(), " bytes; the limit is ", kMostBytes));
    }
    const GuardedResult tried = guarded_call(kTrial, [&] { return trial(text, tokens); });
    if (!tried.ended.empty()) throw refuse(cat("a trial of it ", tried.ended));
    if (!tried.text.empty()) throw refuse(tried.text);
    try {
        return std::make_unique<const JinjaTemplate>(text, tokens);
    } catch (const std::exception& e) {
        throw refuse(e.what());
    }
}

namespace {

/// Names and choices in it, of which the grammar has a rule or more each.
int64_t parts_of(const ordered_json& schema) {
    int64_t n = std::ssize(schema);
    if (!schema.is_structured()) return 0;
    for (const auto& item : schema.items()) n += parts_of(item.value());
    return n;
}

/// In a process of its own: what libllama-common makes of it. It writes to stderr what it leaves
/// out.
std::string converted(const std::string& schema, bool& is_whole) {
    const int log = memfd_create("log", MFD_CLOEXEC);
    if (log >= 0) dup2(log, STDERR_FILENO);
    std::string grammar = json_schema_to_grammar(common_json::parse(schema));
    std::fflush(stderr);
    is_whole = log < 0 || lseek(log, 0, SEEK_END) == 0;
    return grammar;
}

}  // namespace

std::string grammar_of_schema(const std::string& schema) {
    constexpr int64_t kMostParts = 4096;
    constexpr std::string_view kFailed = "failed: ";
    const auto refuse = [](const std::string& why) {
        throw Error(ErrorCode::kInvalidArgument, cat("the JSON schema cannot be used: ", why));
    };
    if (nests_too_deeply(schema)) refuse("it nests too deeply");
    const int64_t n = parts_of(parse_json<ordered_json>(schema));
    if (n > kMostParts) refuse(cat("it has ", n, " names and choices; at most ", kMostParts));
    const GuardedResult made = guarded_call(kTrial, [&]() -> std::string {
        try {
            bool is_whole = true;
            std::string grammar = converted(schema, is_whole);
            if (!is_whole)
                return cat(kFailed, "it asks for what a grammar cannot hold an answer to");
            return grammar;
        } catch (const std::exception& e) {
            return cat(kFailed, e.what());
        }
    });
    if (!made.ended.empty()) refuse(cat("making a grammar of it ", made.ended));
    if (made.text.starts_with(kFailed)) refuse(made.text.substr(kFailed.size()));
    return made.text;
}

}  // namespace palimpsest

#else

namespace palimpsest {

bool has_jinja() { return false; }

std::unique_ptr<const ChatTemplate> make_jinja_template(const std::string& /*text*/,
                                                        const ChatTemplate::Tokens& /*tokens*/) {
    throw Error(ErrorCode::kUnsupported, "this build has no Jinja");
}

std::string grammar_of_schema(const std::string& /*schema*/) {
    throw Error(ErrorCode::kUnsupported,
                "this build lacks libllama-common, which turns JSON schemas into grammars");
}

}  // namespace palimpsest

#endif
