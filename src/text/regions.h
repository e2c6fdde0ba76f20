#pragma once

#include <string_view>
#include <vector>

#include "core/types.h"

namespace palimpsest {

/// What stands in a prompt for its documents, where that is not their tokens.
class Regions {
 public:
    Regions() = default;
    virtual ~Regions() = default;
    Regions(const Regions&) = delete;
    Regions& operator=(const Regions&) = delete;

    /// For a document, which has more than white space and ends in no line break: segments, the
    /// marks around them included. What is written behind them is as behind a special token.
    /// Throws as Tokenizer::encode() does.
    [[nodiscard]] virtual std::vector<Segment> region(std::string_view document) const = 0;

    /// Tokens that stand around documents and in their place, and are never part of an answer.
    [[nodiscard]] virtual std::vector<TokenId> never_written() const = 0;
};

}  // namespace palimpsest
