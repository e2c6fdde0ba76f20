#pragma once

#include <vector>

#include "engine/prefix_check.h"

namespace palimpsest {

/// Attention that traces pay to every entry of a prefix: [layer * KV heads + head][entry], summed
/// over all positions and query heads. What eviction that looks at traces ranks by.
std::vector<std::vector<float>> traced_mass(const PrefixRuntime& with, const ExactPrefix& exact,
                                            std::span<const TraceTokens> traces);

}  // namespace palimpsest
