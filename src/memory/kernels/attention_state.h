#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>

namespace palimpsest {

// Attention of one query over a block of entries is a pair: the softmax-weighted mean of their
// values, and the natural logarithm of the sum of exp(scaled logits). Such states of one query over
// disjoint blocks join, in any order, into exactly the state over all of them. (Okoshi et al.,
// 2026, arXiv:2605.18226, Eq. 2-3 and 7; the logarithm instead of the sum, which overflows.)

inline constexpr float kEmptyState = -std::numeric_limits<float>::infinity();

/// Weight of the state whose logarithm is `theirs` beside one of `own`: exp(theirs) / (exp(own) +
/// exp(theirs)); 0 if theirs is empty.
[[nodiscard]] inline float weight_of_state(float theirs, float own) {
    if (theirs == kEmptyState) return 0;
    if (own == kEmptyState) return 1;
    return 1.0F / (1.0F + std::exp(own - theirs));
}

/// Joins another state into this one. Returns the joint logarithm.
inline float join_state(std::span<float> out, float lse, std::span<const float> other,
                        float other_lse) {
    if (other_lse == kEmptyState) return lse;
    const float w = weight_of_state(other_lse, lse);
    for (size_t c = 0; c < out.size(); ++c) {
        // An empty side may hold anything, infinities included.
        out[c] = w >= 1 ? other[c] : out[c] + w * (other[c] - out[c]);
    }
    if (lse == kEmptyState) return other_lse;
    return std::max(lse, other_lse) + std::log1p(std::exp(-std::abs(lse - other_lse)));
}

/// Logits become their softmax, or zeros if all are empty. Returns the log of the sum of their
/// exponentials.
inline float softmax_logits(std::span<float> logits) {
    const float peak = *std::ranges::max_element(logits);
    if (peak == kEmptyState) {
        std::ranges::fill(logits, 0.0F);
        return kEmptyState;
    }
    float sum = 0;
    for (float& x : logits) {
        x = std::exp(x - peak);
        sum += x;
    }
    for (float& x : logits) x /= sum;
    return peak + std::log(sum);
}

/// Joins single entries, of which `logits` are known: `out` is scaled to its own part, and logits
/// become the weights with which their values are to be added to it. Returns the joint logarithm.
inline float join_logits(std::span<float> out, float lse, std::span<float> logits) {
    float peak = lse;
    for (const float x : logits) peak = std::max(peak, x);
    if (peak == kEmptyState) {
        std::ranges::fill(logits, 0.0F);
        return lse;
    }
    const float own = std::exp(lse - peak);
    float sum = own;
    for (float& x : logits) {
        x = std::exp(x - peak);
        sum += x;
    }
    for (float& x : out) x = own > 0 ? x * (own / sum) : 0;  // an empty side may hold anything
    for (float& x : logits) x /= sum;
    return peak + std::log(sum);
}

}  // namespace palimpsest
