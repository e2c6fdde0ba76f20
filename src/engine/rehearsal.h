#pragma once

#include <span>
#include <vector>

#include "text/tokenizer.h"

namespace palimpsest {

/// How a model is asked to repeat what it has read.
struct RehearsalTexts {
    std::vector<TokenId> first;   // the input from its beginning
    std::vector<TokenId> later;   // from where the last tokens, which follow this, have come to
    std::vector<TokenId> answer;  // what stands before an answer
};

/// What asks a model to repeat what it has read, for policies that learn from that; in our words.
RehearsalTexts rehearsal_texts(const Tokenizer& tokenizer);

/// Tokens that say where a piece starts.
inline constexpr int64_t kCueTokens = 8;

/// What asks for a piece that comes after `before`; empty: for the input from its beginning.
std::vector<TokenId> request_to_repeat(const RehearsalTexts& texts,
                                       std::span<const TokenId> before);

/// Request and answer that repeat `read`'s positions [begin, end): KVzip's protocol (Kim et al.,
/// 2025, arXiv:2505.23416). Positions without a token (-1) are not repeated.
std::vector<TokenId> repetition(const RehearsalTexts& texts, std::span<const TokenId> read,
                                int64_t begin, int64_t end);

/// Fewer positions are not worth repeating at once.
inline constexpr int64_t kLeastRepeated = 16;

/// Tokens of a repetition that are not the repeated ones, at the most.
int64_t repetition_overhead(const RehearsalTexts& texts);

}  // namespace palimpsest
