#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace palimpsest {

/// How much of the past a memory may hold.
struct Budget {
    enum class Kind {
        kNone,     // everything
        kEntries,  // `count` entries a head, on average over heads and layers
        kBytes,    // `count` bytes for all layers together, bookkeeping and one chunk included
        kShare,    // `share` of the prompt's positions, as entries a head
        kEvicted,  // all but `share` of the positions read so far: the ratio of the papers
    };
    Kind kind = Kind::kNone;
    int64_t count = 0;
    double share = 0;
};

/// "1024", "64MiB" (also KiB, GiB, kB, MB, GB, B) or "25%". Throws kInvalidArgument, saying what is
/// wrong with it, for anything else: zero, negative, more than 100 %, more than 2^40 entries.
Budget parse_budget(std::string_view text);

/// The same as text, as a person would write it.
std::string to_string(const Budget& budget);

/// Kept entries of `n` positions if a share of `evicted` goes: max(1, int(n * (1 - evicted))) in
/// double arithmetic, truncated, as the reference implementations compute it.
int64_t kept_of(int64_t n, double evicted);

}  // namespace palimpsest
