#include "text/special_tokens.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "text/text_parts.h"

namespace palimpsest {

namespace {

/// A token's letters; empty if it has none.
std::string letters(const llama_vocab* vocab, TokenId token) {
    const char* text = llama_vocab_get_text(vocab, token);
    return text == nullptr ? "" : text;
}

/// The byte that a byte token stands for: its name is "<0x0A>".
std::optional<char> byte_of(const std::string& name) {
    if (name.size() != 6 || !name.starts_with("<0x") || name.back() != '>') return std::nullopt;
    unsigned value = 0;
    const auto [end, error] = std::from_chars(&name[3], &name[5], value, 16);
    if (error != std::errc() || end != &name[5]) return std::nullopt;
    return static_cast<char>(value);
}

bool means_itself(const std::string& text) {
    const std::vector<std::string_view> characters = characters_of(text);
    return characters.size() == 1 || std::ranges::all_of(characters, is_white);
}

}  // namespace

SpecialTokens::SpecialTokens(const llama_vocab* vocab) {
    const auto n = static_cast<TokenId>(llama_vocab_n_tokens(vocab));
    hidden_.resize(static_cast<size_t>(n));
    for (TokenId id = 0; id < n; ++id) {
        const auto attr = static_cast<unsigned>(llama_vocab_get_attr(vocab, id));
        const auto is = [attr](llama_token_attr a) {
            return (attr & static_cast<unsigned>(a)) != 0;
        };
        if (is(LLAMA_TOKEN_ATTR_BYTE)) {
            if (const auto byte = byte_of(letters(vocab, id))) {
                bytes_.at(static_cast<unsigned char>(*byte)) = id;
            }
            continue;
        }
        const bool is_control = is(LLAMA_TOKEN_ATTR_CONTROL) || is(LLAMA_TOKEN_ATTR_UNKNOWN);
        if (!is_control && !is(LLAMA_TOKEN_ATTR_USER_DEFINED)) continue;
        std::string text = letters(vocab, id);
        if (text.empty()) continue;
        hidden_[static_cast<size_t>(id)] = is_control || !means_itself(text);
        all_.push_back({.id = id,
                        .text = std::move(text),
                        .strips_left = is(LLAMA_TOKEN_ATTR_LSTRIP),
                        .strips_right = is(LLAMA_TOKEN_ATTR_RSTRIP)});
    }
    // Of two of one length libllama takes either; equal order is at least the same each time.
    std::ranges::stable_sort(
        all_, [](const Special& a, const Special& b) { return a.text.size() > b.text.size(); });
}

std::vector<SpecialTokens::Fragment> SpecialTokens::divide(std::string_view text) const {
    std::vector<Fragment> fragments = {{.text = text}};
    for (const Special& s : all_) {
        if (text.find(s.text) == std::string_view::npos) continue;
        std::vector<Fragment> next;
        for (const Fragment& f : fragments) {
            std::string_view rest = f.text;
            if (f.token) {
                next.push_back(f);
                continue;
            }
            for (size_t at = rest.find(s.text); at != std::string_view::npos;
                 at = rest.find(s.text)) {
                if (at > 0) next.push_back({.text = rest.substr(0, at)});
                next.push_back({.text = rest.substr(at, s.text.size()),
                                .token = s.id,
                                .strips_left = s.strips_left,
                                .strips_right = s.strips_right});
                rest.remove_prefix(at + s.text.size());
            }
            if (!rest.empty()) next.push_back({.text = rest});
        }
        fragments = std::move(next);
    }
    return fragments;
}

bool SpecialTokens::is_hidden(TokenId token) const {
    return token >= 0 && static_cast<size_t>(token) < hidden_.size() &&
           hidden_[static_cast<size_t>(token)];
}

std::optional<TokenId> SpecialTokens::of_byte(char byte) const {
    return bytes_.at(static_cast<unsigned char>(byte));
}

}  // namespace palimpsest
