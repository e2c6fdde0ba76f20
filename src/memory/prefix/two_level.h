#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "memory/kernels/match_kernel.h"
#include "memory/prefix/codebook.h"

namespace palimpsest {

// A lookup in two steps (Okoshi et al., 2026, arXiv:2605.18226, sections 3.5 and 4.4): entries lie
// in lists of alike ones; a query is compared with one direction a list, and then with the members
// of the lists that are nearest to it.

/// Lists that a query opens: the paper's choice.
inline constexpr int64_t kListsOpened = 16;

/// How many lists make a lookup cheapest: sqrt(kListsOpened * n_entries).
[[nodiscard]] int64_t lists_for(int64_t n_entries);

/// Are lists faster than looking through all entries? From measurements; docs/prefix.md has them.
[[nodiscard]] bool lists_pay(int64_t n_entries, int64_t width);

/// A codebook's lists, as it is asked.
struct KeyLists {
    MatchKeys directions;                 // of lists that are not empty; n = 0: entries are in none
    std::span<const int32_t> start = {};  // list i has entries [start[i], start[i + 1])

    [[nodiscard]] bool is_empty() const { return directions.n == 0; }
};

/// A codebook's lists, as they are made. None of them is empty.
struct EntryLists {
    std::vector<float> directions = {};  // [n][width], to be compared with as lookup keys are
    std::vector<int32_t> start = {};     // [n + 1]

    [[nodiscard]] int64_t size() const { return std::ssize(start) - 1; }
};

/// Divides a codebook's entries by spherical k-means of their directions, and moves them, so that a
/// list's members stand side by side. The same bits for any number of threads.
EntryLists put_in_lists(const Backend& backend, Codebook& book, uint64_t seed);

/// Raises best[r] by the members of at least n_opened lists, those whose directions are nearest to
/// row r; whole tiles are looked through, so neighbours of members are too. With all lists opened
/// it is best_matches() over all tiles, bit for bit.
void best_in_lists(const MatchKeys& keys, const KeyLists& lists, const float* queries,
                   int64_t stride, int64_t n_opened, std::span<Match> best);

}  // namespace palimpsest
