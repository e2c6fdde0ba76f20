#pragma once

#include <cstdint>

namespace palimpsest {

/// Which query heads are looked up together (Okoshi et al., 2026, section 3.6).
///
/// A layer has n_codebooks() dictionaries. A position asks each of them rows() times, with a key
/// that is the concatenation of blocks() heads' queries; an entry holds a state for each of them.
struct PrefixLayout {
    int64_t n_head = 0, n_head_kv = 0, d_head = 0;
    int64_t heads_per_key = 1;  // within a group: 1 ("head") up to all that share a KV head
    bool is_shared = false;     // one dictionary a layer, keys concatenated over KV heads

    [[nodiscard]] int64_t group() const { return n_head / n_head_kv; }
    [[nodiscard]] int64_t n_codebooks() const { return is_shared ? 1 : n_head_kv; }
    [[nodiscard]] int64_t rows() const { return group() / heads_per_key; }
    [[nodiscard]] int64_t blocks() const {
        return is_shared ? n_head_kv * heads_per_key : heads_per_key;
    }
    /// Values of a key, and of an entry's states.
    [[nodiscard]] int64_t width() const { return blocks() * d_head; }

    /// The query head that is block `b` of row `r` of a codebook.
    [[nodiscard]] int64_t head(int64_t codebook, int64_t r, int64_t b) const {
        const int64_t kv = is_shared ? b / heads_per_key : codebook;
        return kv * group() + r * heads_per_key + b % heads_per_key;
    }

    friend bool operator==(const PrefixLayout&, const PrefixLayout&) = default;
};

}  // namespace palimpsest
