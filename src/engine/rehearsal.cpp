#include "engine/rehearsal.h"

#include <algorithm>

namespace palimpsest {

namespace {

constexpr int64_t kCueTokens = 8;  // last tokens before a piece, which say where it starts

}  // namespace

RehearsalTexts rehearsal_texts(const Tokenizer& tokenizer) {
    return {.first = tokenizer.encode("\n\nRepeat the text above, word for word."),
            .later = tokenizer.encode("\n\nRepeat the part of the text above that starts with:"),
            .answer = tokenizer.encode("\n\n")};
}

std::vector<TokenId> repetition(const RehearsalTexts& texts, std::span<const TokenId> read,
                                int64_t begin, int64_t end) {
    std::vector<TokenId> all = begin == 0 ? texts.first : texts.later;
    const auto add = [&](std::span<const TokenId> more) {
        all.insert(all.end(), more.begin(), more.end());
    };
    const auto piece = [&](int64_t from, int64_t to) {
        return read.subspan(static_cast<size_t>(from), static_cast<size_t>(to - from));
    };
    if (begin > 0) add(piece(std::max<int64_t>(0, begin - kCueTokens), begin));
    add(texts.answer);
    add(piece(begin, end));
    std::erase(all, -1);
    return all;
}

int64_t repetition_overhead(const RehearsalTexts& texts) {
    const size_t asking = std::max(texts.first.size(), texts.later.size());
    return static_cast<int64_t>(asking + texts.answer.size()) + kCueTokens;
}

}  // namespace palimpsest
