#include "engine/rehearsal.h"

#include <algorithm>

namespace palimpsest {

RehearsalTexts rehearsal_texts(const Tokenizer& tokenizer) {
    return {.first = tokenizer.encode("\n\nRepeat the text above, word for word."),
            .later = tokenizer.encode("\n\nRepeat the part of the text above that starts with:"),
            .answer = tokenizer.encode("\n\n")};
}

std::vector<TokenId> request_to_repeat(const RehearsalTexts& texts,
                                       std::span<const TokenId> before) {
    std::vector<TokenId> all = before.empty() ? texts.first : texts.later;
    const auto cue = before.last(std::min(before.size(), static_cast<size_t>(kCueTokens)));
    all.insert(all.end(), cue.begin(), cue.end());
    all.insert(all.end(), texts.answer.begin(), texts.answer.end());
    return all;
}

std::vector<TokenId> repetition(const RehearsalTexts& texts, std::span<const TokenId> read,
                                int64_t begin, int64_t end) {
    std::vector<TokenId> all =
        request_to_repeat(texts, read.subspan(0, static_cast<size_t>(begin)));
    const auto piece = read.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
    all.insert(all.end(), piece.begin(), piece.end());
    std::erase(all, -1);
    return all;
}

int64_t repetition_overhead(const RehearsalTexts& texts) {
    const size_t asking = std::max(texts.first.size(), texts.later.size());
    return static_cast<int64_t>(asking + texts.answer.size()) + kCueTokens;
}

}  // namespace palimpsest
