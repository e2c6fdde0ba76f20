// Messages of arbitrary text: no text becomes a special token, and none is lost. 0xFF stands
// between messages and 0xFE between the parts of one, neither of which is in any text. The first
// byte names a template, and a message's first letter who speaks.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/gguf.h"
#include "expect.h"
#include "support/tiny_model.h"
#include "text/text_parts.h"
#include "text/tokenizer.h"

namespace palimpsest {
namespace {

using fuzzing::expect;
using fuzzing::is_refused;

/// Of libllama's templates, some of every manner: with special tokens of ours, with others', with
/// none. Empty: the model's own.
constexpr std::array<const char*, 8> kTemplates = {"",      "chatml",     "llama2", "llama3",
                                                   "gemma", "mistral-v7", "phi3",   "deepseek"};

const Tokenizer& tokenizer() {
    static const testing::TemporaryFile kFile(testing::speaking_model_bytes(), ".gguf");
    static const auto kTokenizer = Tokenizer::load(kFile.path(), GgufFile::open(kFile.path()));
    return *kTokenizer;
}

/// The model's own, or one of libllama's.
const ChatTemplate& form_of(uint8_t number) {
    static const auto kForms = [] {
        std::vector<std::unique_ptr<const ChatTemplate>> forms;
        for (const char* name : kTemplates) {
            forms.push_back(*name == '\0' ? nullptr : ChatTemplate::named(name));
        }
        return forms;
    }();
    const auto& form = kForms.at(number % kForms.size());
    return form == nullptr ? tokenizer().chat_template() : *form;
}

ChatMessage message_of(std::string_view text) {
    ChatMessage m = {.role = "user", .parts = {}};
    if (text.starts_with('s')) m.role = "system";
    if (text.starts_with('a')) m.role = "assistant";
    text.remove_prefix(std::min<size_t>(text.size(), 1));
    for (const std::string_view part : split_at(text, '\xFE')) {
        m.parts.push_back({.text = std::string(part), .is_context = m.parts.size() % 2 == 1});
    }
    return m;
}

std::vector<TokenId> flat(const std::vector<Segment>& segments) {
    std::vector<TokenId> all;
    for (const Segment& s : segments) all.insert(all.end(), s.tokens.begin(), s.tokens.end());
    return all;
}

/// Bytes of texts that no template takes away.
size_t least_bytes(const std::vector<ChatMessage>& messages) {
    size_t n = 0;
    for (const ChatMessage& m : messages) n += strip(text_of(m)).size();
    return n;
}

/// Tokens that people see and texts do not have.
std::vector<TokenId> special(const Tokenizer& t, std::vector<TokenId> tokens) {
    std::erase_if(tokens,
                  [&](TokenId id) { return !t.bytes(id).empty() || t.visible(id).empty(); });
    return tokens;
}

/// Compares what came of texts with what comes of none.
void compare(const Tokenizer& t, const std::vector<TokenId>& with,
             const std::vector<TokenId>& without, size_t n_text) {
    expect(special(t, with) == special(t, without), "a text became a special token");
    expect(t.decode(with).size() >= t.decode(without).size() + n_text, "a text is lost");
}

std::vector<ChatMessage> emptied(std::vector<ChatMessage> messages) {
    for (ChatMessage& m : messages) m.parts.clear();
    return messages;
}

}  // namespace
}  // namespace palimpsest

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace palimpsest;
    if (size == 0) return 0;
    const Tokenizer& t = tokenizer();
    const ChatTemplate& form = form_of(data[0]);
    const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
    std::vector<ChatMessage> messages;
    for (const std::string_view m : split_at(text, '\xFF')) messages.push_back(message_of(m));
    is_refused([&] {
        const auto tokens = flat(t.encode_chat(messages, form));
        compare(t, tokens, flat(t.encode_chat(emptied(messages), form)), least_bytes(messages));
    });
    for (const ChatMessage& m : messages) {
        is_refused([&] {
            const auto tokens = flat(t.encode_next_turn(m, form));
            const auto none = flat(t.encode_next_turn({.role = m.role, .parts = {}}, form));
            compare(t, tokens, none, least_bytes({m}));
        });
        is_refused([&] {
            const auto tokens = flat(t.encode_raw(m.parts));
            expect(special(t, tokens) == t.beginning(), "a text became a special token");
            expect(t.decode(tokens) == text_of(m), "a text is lost");
        });
    }
    return 0;
}
