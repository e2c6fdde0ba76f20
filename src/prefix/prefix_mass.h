#pragma once

#include <vector>

#include "memory/kernels/scoring_kernel.h"
#include "prefix/prefix_check.h"

namespace palimpsest {

/// Attention paid to every entry of a prefix: [layer * KV heads + head][entry]; nothing is noted
/// of layers with a window, whose lists are empty.
using EntryMass = std::vector<std::vector<float>>;

/// What traces pay, over all positions and query heads summed, or the largest.
EntryMass traced_mass(const PrefixRuntime& with, const ExactPrefix& exact,
                      std::span<const TraceTokens> traces, Reduce reduce);

/// Tokens of a prefix of n tokens that can be repeated at once, in the window's room behind it; 0:
/// there is too little.
[[nodiscard]] int64_t room_to_repeat(const PrefixRuntime& with, int64_t n);

/// What asks the model to repeat the prefix, piece by piece, as traces. Throws kInvalidArgument if
/// there is no room to.
std::vector<TraceTokens> repetitions(const PrefixRuntime& with, std::span<const TokenId> prefix);

/// The n entries of each that have the most, ascending; none of an empty list.
std::vector<std::vector<int32_t>> heaviest(const EntryMass& mass, int64_t n);

/// Of all together the n that have the most, ascending in each; of each one at least, and never
/// all.
std::vector<std::vector<int32_t>> heaviest_of_all(const EntryMass& mass, int64_t n);

}  // namespace palimpsest
