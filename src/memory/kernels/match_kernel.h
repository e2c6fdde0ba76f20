#pragma once

#include <ggml.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

namespace palimpsest {

/// Keys in a tile. Tiles stand channel by channel, so that vectors run over keys.
inline constexpr int64_t kMatchTile = 32;

/// Keys to be compared with: [ceil(n / kMatchTile)][d][kMatchTile], what is past the last key zero.
struct MatchKeys {
    ggml_type type = GGML_TYPE_F32;  // F32, F16 or I8
    const std::byte* tiles = nullptr;
    const float* scale = nullptr;  // [n], of each product; nullptr: 1
    const float* bias = nullptr;   // [n], added to it; nullptr: 0
    int64_t n = 0, d = 0;

    [[nodiscard]] int64_t n_tiles() const { return (n + kMatchTile - 1) / kMatchTile; }
};

/// The best key of a query: the lowest index among equals.
struct Match {
    int64_t index = -1;
    float score = -std::numeric_limits<float>::infinity();
};

/// Raises best[r] by the largest of scale_k * (q_r . k) + bias_k over the keys of tiles
/// [begin, end); rows of `queries` are `stride` values apart. A score is computed the same way
/// whatever the other queries and the range, so any division of the work gives the same bits.
void best_matches(const MatchKeys& keys, const float* queries, int64_t stride, int64_t begin,
                  int64_t end, std::span<Match> best);

/// Every key's score for every row of queries: scores[r][n_tiles * kMatchTile]; those past the last
/// key mean nothing.
void all_matches(const MatchKeys& keys, const float* queries, int64_t stride,
                 std::span<float> scores);

/// Bytes of so many keys in tiles.
[[nodiscard]] size_t match_bytes(ggml_type type, int64_t n, int64_t d);

/// Puts f32 rows [n][d] into tiles of f32 or f16; the rest of the last tile becomes zeros.
void to_tiles(std::span<const float> rows, int64_t d, ggml_type type, std::span<std::byte> tiles);

/// The same in whole numbers of -127 to 127; scale[n] gets what a row's are worth.
void to_tiles_i8(std::span<const float> rows, int64_t d, std::span<std::byte> tiles,
                 std::span<float> scale);

}  // namespace palimpsest
