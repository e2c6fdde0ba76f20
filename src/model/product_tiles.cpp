#include "model/product_tiles.h"

#include <algorithm>
#include <cstring>

namespace palimpsest {

int64_t Matrices::n_out() const {
    int64_t n = 0;
    for (const Linear& l : tiled()) n += l.weight->ne[1];
    return n;
}

std::vector<Tile> tiles_of(const Matrices& m, int64_t size) {
    std::vector<Tile> tiles;
    int64_t column = 0;
    for (size_t i = 0; i < m.tiled().size(); ++i) {
        const int64_t n_out = m.list[i].weight->ne[1];
        for (int64_t first = 0; first < n_out; first += size) {
            const int64_t count = std::min(size, n_out - first);
            tiles.push_back({.matrix = i, .first = first, .count = count, .column = column});
            column += count;
        }
    }
    return tiles;
}

void write_results(const Linear& l, const Tile& tile, const float* results, float* to) {
    if (l.bias == nullptr) {
        std::memcpy(to, results, static_cast<size_t>(tile.count) * sizeof(float));
        return;
    }
    const float* add = static_cast<const float*>(l.bias->data) + tile.first;
    for (int64_t c = 0; c < tile.count; ++c) to[c] = results[c] + add[c];
}

}  // namespace palimpsest
