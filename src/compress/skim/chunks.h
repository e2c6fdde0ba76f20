#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "palimpsest/skim.h"

namespace palimpsest {

/// Tokens of a text.
using CountTokens = std::function<int64_t(std::string_view)>;

/// Pieces of at most `most` tokens each, in order; blank ones are dropped.
[[nodiscard]] std::vector<SkimChunk> cut_into_chunks(const std::vector<SkimDocument>& documents,
                                                     ChunkRule rule, int64_t most,
                                                     const CountTokens& count);

/// "report.txt:12-20"
[[nodiscard]] std::string citation(const std::vector<SkimDocument>& documents,
                                   const SkimChunk& chunk);

}  // namespace palimpsest
