#pragma once

#include <llama-cpp.h>

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/types.h"

namespace palimpsest {

/// Tokens that stand for more than their letters: control tokens and those that a vocabulary calls
/// user-defined. Templates may write them, texts never come to them.
class SpecialTokens {
 public:
    explicit SpecialTokens(const llama_vocab* vocab);

    /// A stretch of plain text, or a token.
    struct Fragment {
        std::string_view text;
        std::optional<TokenId> token = {};
        bool strips_left = false, strips_right = false;  // white space of the text beside it
    };
    /// A template's text as libllama divides it: the longest special tokens first.
    [[nodiscard]] std::vector<Fragment> divide(std::string_view text) const;

    /// Must a text not come to this token? Of user-defined tokens, white space and single
    /// characters are not kept from it: they mean nothing else.
    [[nodiscard]] bool is_hidden(TokenId token) const;

    /// The token that stands for one byte, where a vocabulary has such.
    [[nodiscard]] std::optional<TokenId> of_byte(char byte) const;

 private:
    struct Special {
        TokenId id;
        std::string text;
        bool strips_left, strips_right;
    };
    std::vector<Special> all_;  // the longest first
    std::vector<bool> hidden_;  // of every token
    std::array<std::optional<TokenId>, 256> bytes_{};
};

}  // namespace palimpsest
