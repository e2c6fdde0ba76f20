#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace palimpsest {

/// Which positions no policy may give up, as a policy-independent rule of one sequence.
struct Protection {
    int64_t n_sink = 0;    // first positions
    int64_t n_recent = 0;  // last positions
    /// Pinned spans [begin, end), ascending, apart from each other.
    std::vector<std::pair<int64_t, int64_t>> pinned = {};

    /// 1 for a protected position, when `n_seen` were read. Same length as `positions`.
    [[nodiscard]] std::vector<uint8_t> mark(std::span<const int32_t> positions,
                                            int64_t n_seen) const;
    /// Positions protected of `n_seen`.
    [[nodiscard]] int64_t count(int64_t n_seen) const;
};

/// What one head is asked to choose from.
struct Choice {
    std::span<const float> scores;       // higher is kept; not-a-number counts as -infinity
    std::span<const int32_t> positions;  // ascending
    std::span<const uint8_t> is_protected;
    int64_t n_sink = 0;      // protected positions below this one come first
    int64_t run_length = 1;  // entries whose position / run_length is equal go together
};

/// Keeps the protected entries and the best of the others, `n` in all; fewer where the next whole
/// run does not fit. Ties: the earlier position. If `n` is less than the protected: sinks first,
/// then the most recent. Returns slots, ascending.
std::vector<int32_t> select_entries(const Choice& choice, int64_t n);

/// Slots of [0, n) that are not in `kept` (ascending).
std::vector<int32_t> complement(std::span<const int32_t> kept, int64_t n);

}  // namespace palimpsest
