#pragma once

#include <vector>

#include "engine/prefix_check.h"

namespace palimpsest {

/// Attention that traces pay to every entry of a prefix: [layer * KV heads + head][entry], summed
/// over all positions and query heads. What eviction that looks at traces ranks by.
std::vector<std::vector<float>> traced_mass(const PrefixRuntime& with, const ExactPrefix& exact,
                                            std::span<const TraceTokens> traces);

/// The n entries of each that have the most, ascending.
std::vector<std::vector<int32_t>> heaviest(const std::vector<std::vector<float>>& mass, int64_t n);

}  // namespace palimpsest
