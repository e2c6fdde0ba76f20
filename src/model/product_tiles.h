#pragma once

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

/// Output features [first, first + count) of a matrix, and the column they have in the result.
struct Tile {
    size_t matrix = 0;
    int64_t first = 0, count = 0;
    int64_t column = 0;
};

/// All features, `size` or fewer in a tile.
[[nodiscard]] std::vector<Tile> tiles_of(const Matrices& m, int64_t size);

/// Adds a matrix's sum, if it has one, to a row of a tile's results on the way to where they
/// belong.
void write_results(const Linear& l, const Tile& tile, const float* results, float* to);

}  // namespace palimpsest
