#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "prefix/prefix_check.h"

namespace palimpsest {

// Which of a prefix's own entries a memory keeps beside its dictionaries (docs/decisions/0008).

/// What shows it: the attention of traces like those that the dictionaries are made of, summed over
/// their queries; or that of the model repeating the prefix, the largest of any query.
///
/// The latter is KVzip's way (Kim et al., 2025, arXiv:2505.23416) but for one thing: weights are
/// those of the softmax over the whole prefix, which requests will see, and count for all of its
/// entries. KVzip's own are over the repeated piece alone and count for that.
enum class KeptBy { kTraces, kRepetition };
[[nodiscard]] std::string_view to_string(KeptBy by);

/// Layers that can keep entries: those without a window.
[[nodiscard]] int64_t n_keeping_layers(const MemoryShape& shape);

/// Why a prefix can keep no entries, for people; empty: it can.
[[nodiscard]] std::string why_none_is_kept(const PrefixRuntime& with, const PrefixText& text,
                                           int64_t n_chunks, KeptBy by);

/// What a choice is made by.
struct KeptSearch {
    KeptBy by = KeptBy::kRepetition;
    std::span<const TokenId> prefix;
    std::span<const TraceTokens> traces;  // which may be looked at
    std::filesystem::path folder;         // where weights wait for later runs
};

/// The n entries that matter most, of all heads together but of each at least one and never all:
/// [layer * KV heads + head], ascending; none of layers with a window. Throws kInvalidArgument if
/// there is no room to repeat the prefix.
std::vector<std::vector<int32_t>> find_kept(const PrefixRuntime& with, const ExactPrefix& exact,
                                            const KeptSearch& search, int64_t n);

}  // namespace palimpsest
