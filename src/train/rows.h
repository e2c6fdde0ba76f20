#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace palimpsest {

/// a . b over n values, in eight running sums: the same order on every machine.
[[nodiscard]] inline float dot_rows(const float* a, const float* b, int64_t n) {
    constexpr int64_t kLanes = 8;
    std::array<float, kLanes> sums{};
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        for (size_t lane = 0; lane < kLanes; ++lane) {
            const auto at = i + static_cast<int64_t>(lane);
            sums[lane] += a[at] * b[at];
        }
    }
    float sum = 0;
    for (const float x : sums) sum += x;
    for (; i < n; ++i) sum += a[i] * b[i];
    return sum;
}

/// to += factor * x over n values.
inline void add_scaled(float* to, float factor, const float* x, int64_t n) {
    for (int64_t i = 0; i < n; ++i) to[i] += factor * x[i];
}

/// x w^T: rows of `x` [n][n_in] through the matrix `w` [n_out][n_in]; [n][n_out].
[[nodiscard]] inline std::vector<float> through(std::span<const float> x, std::span<const float> w,
                                                int64_t n_in) {
    const int64_t n = std::ssize(x) / n_in;
    const int64_t n_out = std::ssize(w) / n_in;
    std::vector<float> y(static_cast<size_t>(n * n_out));
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n_out; ++j) {
            y[static_cast<size_t>(i * n_out + j)] =
                dot_rows(x.data() + i * n_in, w.data() + j * n_in, n_in);
        }
    }
    return y;
}

/// The matrix's share of a gradient: to [n_out][n_in] += factor * dy^T x, for dy [n][n_out]. Rows
/// of `dy` that are zero cost nothing.
inline void add_outer(std::span<float> to, float factor, std::span<const float> dy,
                      std::span<const float> x, int64_t n_in) {
    const int64_t n = std::ssize(x) / n_in;
    const int64_t n_out = std::ssize(to) / n_in;
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n_out; ++j) {
            const float d = factor * dy[static_cast<size_t>(i * n_out + j)];
            if (d != 0) add_scaled(to.data() + j * n_in, d, x.data() + i * n_in, n_in);
        }
    }
}

}  // namespace palimpsest
