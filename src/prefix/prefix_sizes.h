#pragma once

#include <cstddef>
#include <cstdint>

#include "prefix/prefix_build.h"

namespace palimpsest {

// How many entries a memory has: what its budget holds, and what its traces can fill.

/// What there is to choose from.
struct PrefixSupply {
    size_t cache_bytes = 0;  // of the prefix's keys and values, f16
    int64_t n_records = 0;   // of a dictionary
    double kept_share = 0;   // of what is held, for kept entries; 0: the prefix can keep none
    int64_t n_keeping = 0;   // layers that can keep entries
};

struct PrefixSizes {
    int64_t k = 0;               // entries a dictionary
    int64_t n_kept = 0;          // of the prefix's own, all heads of all layers together
    bool k_was_lowered = false;  // to what the records allow
};

/// Sizes of the memory that `header` is of (its layout, layers and tokens). A dictionary has an
/// eighth of its records at most. Where a budget would hold more and nobody said what share kept
/// entries get, they get what is left, up to all of the prefix but an entry a head. Throws
/// kInvalidArgument for a budget that holds too little, and for one, or a number of entries, that
/// the records cannot fill.
PrefixSizes choose_sizes(const PrefixBuildOptions& options, const PrefixHeader& header,
                         const PrefixSupply& from);

/// Whether a dictionary of k entries is looked through in lists.
bool wants_lists(const PrefixBuildOptions& options, const PrefixLayout& at, int64_t k);

}  // namespace palimpsest
