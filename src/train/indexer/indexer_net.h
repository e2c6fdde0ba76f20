#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "memory/policy/eviction_weights.h"
#include "train/layer_record.h"

namespace palimpsest {

/// Sizes of a layer's indexer (IndexMem, arXiv:2605.25475, section 3.1).
struct IndexerShape {
    int64_t n_head = 0, d_head = 0;
    float epsilon = 1e-6F;  // of the norms
    Activation activation = Activation::kRelu;
    int64_t n_group = 1;  // of KV heads, each with its own importance; divides n_head

    [[nodiscard]] int64_t width() const { return n_head * d_head; }
    [[nodiscard]] int64_t n_group_head() const { return n_head / n_group; }
};

/// A layer's indexer, or as much room for its gradients: T is const float or float. Views. RMS
/// norms, no biases: what the paper has.
template <typename T>
struct IndexerParts {
    std::span<T> q;       // [n_head * d_head][query channels], of the queries before RoPE
    std::span<T> k;       // [d_head][n_embd], of the block's normed input
    std::span<T> head;    // [n_head][n_embd]
    std::span<T> q_norm;  // [d_head]
    std::span<T> k_norm;  // [d_head]
    std::span<T> bias;    // [n_group], of the importance (ours); empty: none
};

/// What each key of a range means to the queries of a range that see it: [group][key].
struct Importance {
    std::vector<float> largest;  // -infinity where no query sees the key
    std::vector<int64_t> asker;  // the query that the largest is of; the first of equals
};

/// One range of queries looking at one range of keys, never at later ones.
struct Looking {
    int64_t first_query = 0, end_query = 0;
    int64_t first_key = 0, end_key = 0;

    [[nodiscard]] int64_t n_keys() const { return end_key - first_key; }
};

/// One layer's indexer, run over one document and back.
///
///   q_s,i = norm(U_q Q_s)_i    k_t = norm(U_k X_t)    alpha_s = G X_s / sqrt(n_head d_head)
///   importance_t = bias + max over s >= t of sum_i alpha_s,i act(q_s,i . k_t)
///
/// The sum runs over all heads (the paper's), or, for each group of KV heads, over the group's.
class IndexerNet {
 public:
    /// Runs the projections. Weights and record must outlive the object. Throws kInvalidArgument
    /// if a weight is not of the shape that the record asks for.
    IndexerNet(const IndexerShape& shape, const IndexerParts<const float>& weights,
               const LayerRecord& record);

    [[nodiscard]] Importance importance(const Looking& at) const;

    /// Adds to `to` the gradient of what has gradient `upstream` [n_group][at.n_keys()] with
    /// respect to `found`, which is importance(at). It flows to the query that asked most, and to
    /// no other.
    void backward(const Looking& at, const Importance& found, std::span<const float> upstream,
                  const IndexerParts<float>& to) const;

 private:
    [[nodiscard]] float score(int64_t group, int64_t query, int64_t key) const;

    IndexerShape shape_;
    IndexerParts<const float> weights_;
    const LayerRecord& record_;
    std::vector<float> q_in_, k_in_;            // before their norms
    std::vector<float> q_, k_;                  // [n][n_head][d_head], [n][d_head]
    std::vector<float> q_inverse_, k_inverse_;  // one over the root mean square: [n][n_head], [n]
    std::vector<float> alpha_;                  // [n][n_head]
};

}  // namespace palimpsest
