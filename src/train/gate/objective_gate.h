#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <span>

#include "train/example.h"

namespace palimpsest {

/// Logarithms below this are not told apart: a weight of a millionth.
inline constexpr float kLeastLogScore = -13.8155F;

/// What a gate foretells of a score.
[[nodiscard]] inline float log_score(float score) {
    return std::max(std::log(std::max(score, 1e-30F)), kLeastLogScore);
}

/// The loss of one entry: half the square of how far the score x is from the target y, the
/// logarithm of what a repetition pays to the entry, and for each cut c, the logarithm of a score
/// at which a cache is cut, the logistic loss of x - c against whether y lies above it. The square
/// alone spends its effort on how small the small ones are; what a cut needs is which side an entry
/// lies on.
struct GateLoss {
    float loss = 0, slope = 0;  // the slope in x
};
[[nodiscard]] GateLoss gate_loss(float x, float y, std::span<const float> cuts);

/// Shares of the best k of `truth` that are among the best k of `guess`, k being each of kCutShares
/// of them all; equal values count in their order.
[[nodiscard]] std::array<double, kCutShares.size()> recalls(std::span<const float> truth,
                                                            std::span<const float> guess);

}  // namespace palimpsest
