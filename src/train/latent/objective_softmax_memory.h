#pragma once

#include <span>

#include "train/latent/objective_memory.h"
#include "train/layer_record.h"

namespace palimpsest {

/// A layer's latent memory of the form kSoftmax (memory/residue_latent_softmax.cpp), or as much
/// room for its gradients: T is const float or float.
template <typename T>
struct SoftmaxMemoryParts {
    std::span<T> key, key_bias;      // [n_head_kv][n_feature][d_head], [n_head_kv][n_feature]
    std::span<T> query, query_bias;  // the same
};

/// The mean over readers, heads and channels of the squared difference between what is missing and
/// what the memory, joined in the softmax, makes up for:
///
///   a = softmax(W_k k + c_k),   M = sum a v^T,   b = sum a over evicted rows
///   p = softmax over features of (W_q q + c_q + ln b),   m = sum p M / b,   s = log-sum-exp of it
///   answer = sigmoid(s - lse of what stays) * (m - attention over what stays)
///
/// Adds `weight` times its gradient to `gradient`, unless that is empty. Returns the loss, without
/// the weight. Throws kInvalidArgument for weights of another shape.
double softmax_memory_loss(const LayerRecord& record, const MemoryTarget& target,
                           const SoftmaxMemoryParts<const float>& weights, float weight,
                           const SoftmaxMemoryParts<float>& gradient);

}  // namespace palimpsest
