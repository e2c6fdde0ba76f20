#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/types.h"
#include "palimpsest/generation.h"
#include "text/chat_template.h"

namespace palimpsest {

/// What a request says of tools.
struct ToolRequest {
    enum class Choice { kAuto, kRequired, kNone };
    nlohmann::ordered_json tools = nlohmann::ordered_json::array();  // OpenAI's form
    Choice choice = Choice::kAuto;
    bool may_call_several = false;  // in one answer
    bool may_think = true;          // where the template has it
};

struct ToolCall {
    std::string name, arguments, id;  // arguments: JSON; id: empty unless the model gave one
};

/// What an answer says.
struct ParsedAnswer {
    std::string content, reasoning;
    std::vector<ToolCall> calls;
};

/// How a model that knows a chat template calls tools: a grammar for its answers, and what they
/// say. By libllama-common, which tells it from the template. Immutable; safe to share.
class ToolProtocol {
 public:
    /// The template is tried in a process of its own, as ChatTemplate::of_text() does. Throws
    /// kInvalidArgument for tools that are none, kUnsupported for a template that refuses them and
    /// in a build without libllama-common.
    static std::unique_ptr<const ToolProtocol> make(const std::string& chat_template,
                                                    const ChatTemplate::Tokens& tokens,
                                                    const ToolRequest& request);
    ToolProtocol() = default;
    virtual ~ToolProtocol() = default;
    ToolProtocol(const ToolProtocol&) = delete;
    ToolProtocol& operator=(const ToolProtocol&) = delete;

    /// GBNF; empty: whatever is written is allowed.
    [[nodiscard]] virtual const std::string& grammar() const = 0;
    /// If not empty, the grammar holds from the first of these on, and not before.
    [[nodiscard]] virtual const std::vector<GrammarTrigger>& triggers() const = 0;
    /// Texts that end an answer, beside the model's own end.
    [[nodiscard]] virtual const std::vector<std::string>& stops() const = 0;

    /// Where a template has no place for tools: what the system is to say of them. Then calls and
    /// their results go into a conversation as text (as_plain_messages()). Empty: the template
    /// writes tools, calls and results itself.
    [[nodiscard]] virtual const std::string& instructions() const = 0;

    /// What an answer says, or the beginning of one, if `is_partial`. Throws kCorrupt for one that
    /// is not of the template's form.
    [[nodiscard]] virtual ParsedAnswer parse(const std::string& answer, bool is_partial) const = 0;
};

/// A conversation for a template that knows of no tools: with instructions in front, calls as the
/// JSON that these ask for, results as what the user says.
[[nodiscard]] std::vector<ChatMessage> as_plain_messages(std::vector<ChatMessage> messages,
                                                         const std::string& instructions);

}  // namespace palimpsest
