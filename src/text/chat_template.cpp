#include "text/chat_template.h"

#include <llama.h>

#include <algorithm>
#include <exception>
#include <optional>
#include <utility>

#include "core/error.h"
#include "text/input_files.h"
#include "text/jinja.h"
#include "text/text_parts.h"
#include "text/utf8.h"

namespace palimpsest {

namespace {

std::vector<std::string> libllama_names() {
    std::vector<const char*> names(static_cast<size_t>(llama_chat_builtin_templates(nullptr, 0)));
    llama_chat_builtin_templates(names.data(), names.size());
    return {names.begin(), names.end()};
}

/// libllama takes texts that end at a zero.
std::string without_zeros(std::string text) {
    std::ranges::replace(text, '\0', '\x03');
    return text;
}

/// A template that libllama knows by heart: it recognises a text, or a name of its own.
class KnownTemplate final : public ChatTemplate {
 public:
    explicit KnownTemplate(std::string text) : text_(std::move(text)) {
        const std::vector<ChatMessage> probe = {{"user", {{"a"}}}};
        if (!rendered({.messages = probe}, {"a"})) {
            throw Error(ErrorCode::kUnsupported,
                        "libllama does not know this chat template, and this build cannot render "
                        "it by itself; name one (--chat-template), or use raw text (--raw)");
        }
    }

    [[nodiscard]] std::vector<RenderedPiece> render(const TemplateInput& input) const override {
        if (!input.tools.is_null()) {
            throw Error(ErrorCode::kUnsupported, "libllama's own chat templates know no tools");
        }
        // Markers tell where messages stand; the texts themselves, what becomes of them there.
        std::vector<std::string> marks;
        std::vector<std::string> texts;
        for (const ChatMessage& m : input.messages) {
            texts.push_back(without_zeros(text_of(m)));
            // Where a message says nothing, some templates leave words out.
            const bool is_silent = strip(texts.back()).empty();
            marks.push_back(is_silent ? texts.back() : cat("\x01", marks.size(), "\x02"));
        }
        const auto marked = rendered(input, marks);
        const auto real = rendered(input, texts);
        check(marked && real, "a chat template that was known is unknown");
        return matched(input, marks, {*marked, *real});
    }

    [[nodiscard]] std::string kind() const override { return "libllama's"; }

 private:
    struct Renderings {
        std::string_view marked, real;
    };

    [[nodiscard]] std::optional<std::string> rendered(const TemplateInput& input,
                                                      const std::vector<std::string>& texts) const {
        std::vector<llama_chat_message> chat;
        for (size_t i = 0; i < texts.size(); ++i) {
            chat.push_back({input.messages[i].role.c_str(), texts[i].c_str()});
        }
        std::string out(512, '\0');
        const auto apply = [&]() -> int32_t {
            try {
                return llama_chat_apply_template(text_.c_str(), chat.data(), chat.size(),
                                                 input.begins_answer, out.data(),
                                                 static_cast<int32_t>(out.size()));
            } catch (const std::exception&) {
                return -1;  // of a conversation that the template cannot write
            }
        };
        int32_t n = apply();
        if (n > static_cast<int32_t>(out.size())) {
            out.resize(static_cast<size_t>(n));
            n = apply();
        }
        if (n < 0) return std::nullopt;
        out.resize(static_cast<size_t>(n));
        return out;
    }

    static Error has_changed() {
        return {ErrorCode::kUnsupported,
                "the chat template writes its words by what messages say, and cannot be followed; "
                "name another template, or use raw text"};
    }

    static std::vector<RenderedPiece> matched(const TemplateInput& input,
                                              const std::vector<std::string>& marks, Renderings r) {
        std::vector<RenderedPiece> pieces;
        for (size_t i = 0; i < marks.size(); ++i) {
            if (strip(marks[i]).empty()) continue;
            const size_t at = r.marked.find(marks[i]);
            if (at == std::string_view::npos) {
                throw Error(ErrorCode::kUnsupported,
                            cat("the chat template has no place for message ", i + 1, ", of the ",
                                input.messages[i].role,
                                "; leave it out, name another template, or use raw text"));
            }
            if (r.real.substr(0, at) != r.marked.substr(0, at)) throw has_changed();
            pieces.push_back({.text = std::string(r.real.substr(0, at)), .is_message = false});
            r.marked.remove_prefix(at + marks[i].size());
            r.real.remove_prefix(at);
            const std::string whole = text_of(input.messages[i]);
            const std::string shown = without_zeros(whole);
            std::string_view text = shown;
            if (!r.real.starts_with(text)) text = strip(text);
            if (!r.real.starts_with(text)) throw has_changed();
            const size_t begin = text.empty() ? 0 : static_cast<size_t>(text.data() - shown.data());
            pieces.push_back({.text = whole.substr(begin, text.size()), .is_message = true});
            r.real.remove_prefix(text.size());
        }
        pieces.push_back({.text = std::string(r.real), .is_message = false});
        return pieces;
    }

    std::string text_;
};

}  // namespace

std::string text_of(const ChatMessage& message) {
    std::string text;
    for (const TextPart& p : message.parts) text += p.text;
    return text;
}

std::unique_ptr<const ChatTemplate> ChatTemplate::of_text(const std::string& text,
                                                          const Tokens& tokens) {
    if (has_jinja()) return make_jinja_template(text, tokens);
    return std::make_unique<const KnownTemplate>(text);
}

std::unique_ptr<const ChatTemplate> ChatTemplate::named(std::string_view name) {
    const std::vector<std::string> names = libllama_names();
    if (std::ranges::find(names, name) == names.end()) {
        throw Error(ErrorCode::kInvalidArgument,
                    cat("no chat template is called '", name, "'; there are: ", join(names, ", "),
                        "; or name a file that has one"));
    }
    return std::make_unique<const KnownTemplate>(std::string(name));
}

std::unique_ptr<const ChatTemplate> ChatTemplate::from_choice(const std::string& choice,
                                                              const Tokens& tokens) {
    const auto has = [&choice](std::string_view what) {
        return choice.find(what) != std::string::npos;
    };
    if (has("{%") || has("{{")) return of_text(choice, tokens);
    if (has("/") || has(".")) return of_text(read_text_file(choice), tokens);
    return named(choice);
}

std::vector<TextPart> take_begun_answer(std::vector<ChatMessage>& messages) {
    const bool is_begun =
        messages.size() > 1 && messages.back().role == "assistant" && messages.back().calls.empty();
    if (!is_begun) return {};
    std::vector<TextPart> begun = std::move(messages.back().parts);
    messages.pop_back();
    std::erase_if(begun, [](const TextPart& p) { return p.text.empty(); });
    return begun;
}

}  // namespace palimpsest
