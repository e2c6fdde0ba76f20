#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#pragma GCC visibility push(default)

namespace palimpsest {

/// What a memory holds and what it let go, at one moment.
struct MemoryReport {
    std::string policy = "full", allocator, residue = "none", entries, budget = "everything";
    bool one_shot = false;       // cut once after the prompt, instead of all along
    int64_t budget_entries = 0;  // a head, on average; 0: no bound
    int64_t positions_seen = 0;
    int64_t n_sink = 0, n_recent = 0, n_pinned = 0;  // protected positions

    /// For every position seen: share of the heads that may forget which still hold it, 0 to 1.
    std::vector<float> held_share = {};
    bool is_residue_readable = false;  // what no head holds is still in the residue

    struct Layer {
        int64_t window = 0;              // > 0: slides by itself, outside the budget
        std::vector<int64_t> held = {};  // entries of each KV head
        size_t bytes = 0;
        double boundary_rate = 0;  // of a bank of states: opened by a token, averaged over heads
    };
    std::vector<Layer> layers = {};

    /// What recurrent layers keep, of which no token can be told apart.
    struct States {
        std::string bank = {};  // empty: one state a head, or no recurrent layer
        int64_t n_most = 0;     // states a head
        double mean_held = 0;
        int64_t n_heads = 0;
        int64_t n_opened = 0, n_merged = 0;    // by all heads, since the beginning
        std::array<int64_t, 24> lengths = {};  // held states of 1, 2 to 3, 4 to 7 ... tokens
        /// Where most heads opened a state: the strongest ones, in order.
        struct Change {
            int64_t position = 0;
            double share = 0;  // of the heads
        };
        std::vector<Change> changes = {};
    };
    States states = {};

    struct Bytes {
        size_t entries = 0;      // keys and values, whole pages
        size_t bookkeeping = 0;  // positions
        size_t policy = 0, residue = 0;
        size_t states = 0;   // of recurrent layers
        size_t scratch = 0;  // memory that attention works in
        [[nodiscard]] size_t total() const {
            return entries + bookkeeping + policy + residue + states + scratch;
        }
    };
    Bytes bytes = {};
    size_t peak_bytes = 0;  // most at any moment, the running chunk included

    /// What lookups in prefixes' dictionaries found. One lookup a layer, codebook and row.
    struct Prefix {
        std::vector<std::string> names = {};  // empty: there are none
        int64_t n_positions = 0;              // tokens they stand for
        int64_t lookups = 0;
        std::array<int64_t, 20> similarity = {};  // of winners: twentieths of 0 to 1
        double mean_similarity = 0;
        int64_t below_floor = 0;  // less like their entry than traces were to theirs
        int64_t exact = 0;        // of those, read from the exact prefix
        double mean_weight = 0;   // given to all prefixes together, of a query's attention
        size_t held_bytes = 0, moved_bytes = 0, exact_bytes = 0;  // shared by all sequences
    };
    Prefix prefix = {};

    int64_t n_cuts = 0;
    double scoring_s = 0, cutting_s = 0;
    int64_t n_renumbered = 0;          // times that positions were made contiguous
    int64_t first_renumbered_at = -1;  // positions read by then
};

}  // namespace palimpsest

#pragma GCC visibility pop
