#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "train/layer_record.h"

namespace palimpsest {

/// Rows of one layer's KV heads: [n_head_kv][rows], ascending.
using HeadRows = std::vector<std::vector<int32_t>>;

/// What eviction takes from a layer's answers on one document: what the latent memory should give
/// back. Does not depend on the memory: computed once for a document and a set of rows.
struct MemoryTarget {
    HeadRows evicted;              // of the prompt
    std::vector<int32_t> readers;  // tokens of the response that read the memory
    std::vector<float> missing;    // [readers][n_head][d_head]: attention with less without
    std::vector<float> stays;      // [readers][n_head][d_head]: attention without
    std::vector<float> lse;        // [readers][n_head]: log-sum-exp of the logits of what stays
};

/// Which rows of the prompt go: all but the max(1, int(n_prompt * (1 - evicted_share))) most
/// important, the first `n_sink` being safe; ties go to the earlier. The same rule as when cutting.
/// `importance` [n_prompt].
std::vector<int32_t> rows_to_evict(std::span<const float> importance, double evicted_share,
                                   int64_t n_sink);

/// Of every `read_every`-th token of the response. Throws kInvalidArgument for a record without a
/// response, rows outside the prompt, or rows of another number of heads.
MemoryTarget memory_target(const LayerRecord& record, HeadRows evicted, int64_t read_every = 1);

/// A layer's latent memory (IndexMem, arXiv:2605.25475, section 3.2, the released code's variant),
/// or as much room for its gradients: T is const float or float.
template <typename T>
struct MemoryParts {
    std::span<T> phi;   // [n_feature][d_head]
    std::span<T> gate;  // [1]: the gate is its sigmoid
};

struct MemoryRule {
    float floor = 1e-6F;  // least denominator of an answer
    bool clips = false;   // answers are no longer than the longest value evicted from that head
};

/// The mean over readers, heads and channels of the squared difference between what is
/// missing and what the memory answers:
///
///   M = sum phi(k) v^T,   b = sum phi(k)^2 over evicted rows,   phi(x) = W x
///   answer = sigmoid(gate) * phi(q)^T M / max(phi(q)^2 . b, floor)
///
/// Adds `weight` times its gradient to `gradient`, unless that is empty. Returns the loss, without
/// the weight. Written at once, so the decay learns nothing. Throws kInvalidArgument for weights
/// of another shape.
double memory_loss(const LayerRecord& record, const MemoryTarget& target,
                   const MemoryParts<const float>& weights, const MemoryRule& rule, float weight,
                   const MemoryParts<float>& gradient);

}  // namespace palimpsest
