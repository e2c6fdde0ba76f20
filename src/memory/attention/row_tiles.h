#pragma once

#include <cmath>
#include <span>
#include <vector>

#include "memory/attention/entry_view.h"
#include "memory/kernels/scoring_kernel.h"

namespace palimpsest {

/// Calls `work(row)` with every row of a head as f32, slot after slot; `rows.k` is read.
template <class Work>
void for_rows(const EntryRows& rows, int64_t n, const Work& work) {
    constexpr int64_t kTile = 64;
    const auto d = static_cast<size_t>(rows.d);
    std::vector<float> tile(static_cast<size_t>(kTile) * d);
    for (int64_t first = 0; first < n; first += kTile) {
        const int64_t count = std::min(kTile, n - first);
        read_keys(rows, first, count, tile.data());
        for (int64_t t = 0; t < count; ++t) {
            work(std::span<const float>(tile).subspan(static_cast<size_t>(t) * d, d));
        }
    }
}

template <class Work>
void for_keys(const HeadView& head, const Work& work) {
    for_rows(head.rows, std::ssize(head.positions), work);
}

template <class Work>
void for_values(const HeadView& head, const Work& work) {
    EntryRows values = head.rows;
    values.k = values.v;
    for_rows(values, std::ssize(head.positions), work);
}

/// In f32, four sums side by side.
inline float squared_norm(std::span<const float> row) {
    float sum[4] = {0, 0, 0, 0};
    for (size_t c = 0; c < row.size(); c += 4) {  // head sizes are multiples of 8
        for (size_t j = 0; j < 4; ++j) sum[j] += row[c + j] * row[c + j];
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

inline float norm(std::span<const float> row) { return std::sqrt(squared_norm(row)); }

inline float dot(std::span<const float> a, std::span<const float> b) {
    float sum[4] = {0, 0, 0, 0};
    for (size_t c = 0; c < a.size(); c += 4) {
        for (size_t j = 0; j < 4; ++j) sum[j] += a[c + j] * b[c + j];
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

}  // namespace palimpsest
