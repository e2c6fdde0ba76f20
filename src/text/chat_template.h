#pragma once

#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "palimpsest/message.h"

namespace palimpsest {

/// A stretch of a rendered conversation: what the template wrote, or what a message says. The
/// latter never comes to special tokens.
struct RenderedPiece {
    std::string text;
    bool is_message = false;
};

/// All that a message says.
[[nodiscard]] std::string text_of(const ChatMessage& message);

/// What a template is told beside the messages.
struct TemplateInput {
    std::span<const ChatMessage> messages;
    nlohmann::ordered_json tools = nullptr;  // OpenAI's form; null: none
    bool begins_answer = true;               // write what an answer begins with
    std::time_t now = std::time(nullptr);    // some write the date
    size_t most_bytes = size_t{1} << 31U;    // that it may write
};

/// Writes conversations as a model was taught to read them. Immutable; safe to share.
class ChatTemplate {
 public:
    /// Texts that templates may write.
    struct Tokens {
        std::string bos, eos;
    };

    virtual ~ChatTemplate() = default;
    ChatTemplate() = default;
    ChatTemplate(const ChatTemplate&) = delete;
    ChatTemplate& operator=(const ChatTemplate&) = delete;

    /// Texts of messages stand in it as the template leaves them (often without white space at
    /// both ends). Throws kUnsupported if the template has no place for a message, or refuses.
    [[nodiscard]] virtual std::vector<RenderedPiece> render(const TemplateInput& input) const = 0;
    /// Its text, where it is Jinja; empty: libllama knows it by heart.
    [[nodiscard]] virtual std::string source() const { return {}; }
    /// How it is rendered: "Jinja", or libllama's name for it.
    [[nodiscard]] virtual std::string kind() const = 0;

    /// A template's text. With Jinja it is tried once in a process of its own, whose time and
    /// memory are limited, since it comes with a model; without, it must be one that libllama
    /// knows. Throws kUnsupported with the reason.
    static std::unique_ptr<const ChatTemplate> of_text(const std::string& text,
                                                       const Tokens& tokens);
    /// One of libllama's ("chatml", "llama3", ...). Throws kInvalidArgument, listing the names.
    static std::unique_ptr<const ChatTemplate> named(std::string_view name);
    /// What a user says: a name, a file's path, or a text, which has "{%" or "{{" in it.
    static std::unique_ptr<const ChatTemplate> from_choice(const std::string& choice,
                                                           const Tokens& tokens);
};

/// Can this build render Jinja? Else only templates that libllama knows by heart are rendered.
[[nodiscard]] bool has_jinja();

/// A grammar (GBNF) that allows what a JSON schema does. Throws kInvalidArgument for a schema that
/// is not one, kUnsupported for a build without libllama-common.
[[nodiscard]] std::string grammar_of_schema(const std::string& schema);

/// A conversation that ends with the assistant is one whose answer was begun: it goes on there.
/// What was said of it is taken out of the messages. Empty: none was.
[[nodiscard]] std::vector<TextPart> take_begun_answer(std::vector<ChatMessage>& messages);

}  // namespace palimpsest
