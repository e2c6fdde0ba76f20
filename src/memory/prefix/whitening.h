#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace palimpsest {

/// Evens out how much each direction of some rows varies: x -> C^(-1/2) x, C their covariance, so
/// that no direction decides a cosine alone (Okoshi et al., 2026, Eq. 8). C is raised by 0.1 % of
/// its mean variance on the diagonal.
struct Whitening {
    int64_t d = 0;
    std::vector<float> root;  // [d][d], symmetric: C^(-1/2)
};

/// Of rows [n][stride], of which values [at, at + d) are looked at.
Whitening whitening_of(std::span<const float> rows, int64_t stride, int64_t at, int64_t d);

/// out = m x for a square matrix, row after row.
void multiply(std::span<const float> m, std::span<const float> x, std::span<float> out);

}  // namespace palimpsest
