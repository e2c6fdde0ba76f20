#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/graph.h"
#include "model/linear_kernel.h"

namespace palimpsest {

/// A product with an optional sum: [in, out] and [out].
struct Linear {
    Tensor weight = nullptr;
    Tensor bias = nullptr;
};

/// down(f(gate(x)) * up(x)); none of them has a sum.
struct GatedLinear {
    Linear gate, up, down;
    Gating gating = Gating::kSilu;
};

/// Matrices that are multiplied with the same rows, their results side by side; where `gating` is
/// set, a gate and what it multiplies, which give one result.
struct Matrices {
    std::vector<Linear> list;
    std::optional<Gating> gating = {};

    [[nodiscard]] int64_t inner() const { return list[0].weight->ne[0]; }
    /// Features of the result.
    [[nodiscard]] int64_t n_out() const;
    /// Those of which tiles are made: a gate's second is computed with the first, tile by tile.
    [[nodiscard]] std::span<const Linear> tiled() const {
        return {list.data(), gating ? 1 : list.size()};
    }
};

// Of products of many rows.
inline constexpr int64_t kRowBlock = 256;                   // rows multiplied with a tile at once
inline constexpr int64_t kMostTile = 128;                   // features of a tile
inline constexpr int64_t kTileBytes = int64_t{256} * 1024;  // which stays in the nearer caches
inline constexpr int64_t kTiles = 12;  // so many at least, for threads to share

/// Output features [first, first + count) of a matrix, and the column they have in the result.
struct Tile {
    size_t matrix = 0;
    int64_t first = 0, count = 0;
    int64_t column = 0;
};

/// All features, `size` or fewer in a tile.
[[nodiscard]] std::vector<Tile> tiles_of(const Matrices& m, int64_t size);

/// Blocks of kRowBlock rows.
struct RowBlocks {
    int64_t begin, end;
};

/// Calls multiply(tile, blocks) for a thread's share of all tiles and rows. To be called by every
/// thread; a tile's rows are divided only where there are few tiles.
template <class Multiply>
void share_tiles(WorkList& work, const std::vector<Tile>& tiles, int64_t n_rows, int n_threads,
                 const Multiply& multiply) {
    constexpr int64_t kShares = 4;  // pieces of work for each thread, or more
    const int64_t blocks = (n_rows + kRowBlock - 1) / kRowBlock;
    const int64_t n_tiles = std::ssize(tiles);
    const int64_t parts =
        std::clamp<int64_t>((kShares * n_threads + n_tiles - 1) / n_tiles, 1, blocks);
    for (int64_t w = work.take(); w < n_tiles * parts; w = work.take()) {
        const int64_t part = w % parts;
        multiply(tiles[static_cast<size_t>(w / parts)],
                 RowBlocks{.begin = blocks * part / parts, .end = blocks * (part + 1) / parts});
    }
    work.leave(n_threads);
}

/// Row i of rows of f32.
inline const float* row_of(const ggml_tensor* t, int64_t i) {
    return reinterpret_cast<const float*>(static_cast<const char*>(t->data) +
                                          static_cast<size_t>(i) * t->nb[1]);
}

inline float* row_of(ggml_tensor* t, int64_t i) {
    return reinterpret_cast<float*>(static_cast<char*>(t->data) +
                                    static_cast<size_t>(i) * t->nb[1]);
}

/// Adds a matrix's sum, if it has one, to a row of a tile's results on the way to where they
/// belong.
void write_results(const Linear& l, const Tile& tile, const float* results, float* to);

}  // namespace palimpsest
