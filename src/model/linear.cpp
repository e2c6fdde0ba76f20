#include "model/linear.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "core/error.h"

namespace palimpsest {

namespace {

constexpr int64_t kManyRows = 24;   // measured: docs/decisions/0010
constexpr int64_t kRowBlock = 256;  // rows multiplied at once
constexpr int64_t kRowStep = 16;    // their number is a multiple of it, so that products are few
constexpr int64_t kLeastTile = 32;
constexpr int64_t kMostTile = 128;
constexpr int64_t kTileBytes =
    int64_t{256} * 1024;        // of a tile's weights: they stay in the nearer caches
constexpr int64_t kTiles = 12;  // so many at least, for threads to share
constexpr int64_t kShares = 4;  // pieces of work for each thread, or more
constexpr size_t kLine = 64;

struct NamedReading {
    std::string_view name;
    Reading reading;
};
constexpr std::array<NamedReading, 4> kReadings = {{{"auto", Reading::kAuto},
                                                    {"quantised", Reading::kQuantised},
                                                    {"bf16", Reading::kBf16},
                                                    {"f32", Reading::kF32}}};

int64_t padded(int64_t n) { return (n + kRowStep - 1) / kRowStep * kRowStep; }
size_t whole_lines(size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

ggml_type type_of(Numbers numbers) {
    return numbers == Numbers::kBf16 ? GGML_TYPE_BF16 : GGML_TYPE_F32;
}
size_t bytes_of(Numbers numbers) { return ggml_type_size(type_of(numbers)); }

const float* row_of(const ggml_tensor* t, int64_t i) {
    return reinterpret_cast<const float*>(static_cast<const char*>(t->data) +
                                          static_cast<size_t>(i) * t->nb[1]);
}

/// Output features [first, first + count) of a matrix, and the column they have in the result.
struct Tile {
    size_t matrix = 0;
    int64_t first = 0, count = 0;
    int64_t column = 0;
};

/// Features in a tile: few enough that threads share the work evenly, and never dependent on how
/// many threads there are.
int64_t tile_size(int64_t inner, int64_t n_out) {
    const int64_t fits = kTileBytes / (2 * inner);
    const int64_t shared = n_out / kTiles / kRowStep * kRowStep;
    return std::clamp(std::min(fits / kRowStep * kRowStep, shared), kLeastTile, kMostTile);
}

std::vector<Tile> tiles_of(std::span<const Linear> matrices, int64_t size) {
    std::vector<Tile> tiles;
    int64_t column = 0;
    for (size_t m = 0; m < matrices.size(); ++m) {
        const int64_t n_out = matrices[m].weight->ne[1];
        for (int64_t first = 0; first < n_out; first += size) {
            const int64_t count = std::min(size, n_out - first);
            tiles.push_back({.matrix = m, .first = first, .count = count, .column = column});
            column += count;
        }
    }
    return tiles;
}

/// Rows [first, first + count) of a stored matrix as plain numbers, row after row: where they are,
/// or in `to`. `row` has room for one of them in f32.
const void* plain_rows(const ggml_tensor* w, int64_t first, int64_t count, Numbers numbers,
                       std::byte* to, float* row) {
    const int64_t inner = w->ne[0];
    const auto* from = static_cast<const char*>(w->data) + static_cast<size_t>(first) * w->nb[1];
    if (w->type == type_of(numbers)) return from;
    const ggml_to_float_t to_float = ggml_get_type_traits(w->type)->to_float;
    std::byte* at = to;
    for (int64_t i = 0; i < count; ++i, from += w->nb[1]) {
        if (numbers == Numbers::kF32) {
            to_float(from, reinterpret_cast<float*>(at), inner);
        } else if (w->type == GGML_TYPE_F32) {
            round_to_bf16(reinterpret_cast<const float*>(from), inner,
                          reinterpret_cast<uint16_t*>(at));
        } else {
            to_float(from, row, inner);
            round_to_bf16(row, inner, reinterpret_cast<uint16_t*>(at));
        }
        at += static_cast<size_t>(inner) * bytes_of(numbers);
    }
    return to;
}

}  // namespace

Reading reading_named(std::string_view name) {
    std::string names;
    for (const NamedReading& r : kReadings) {
        if (r.name == name) return r.reading;
        names += cat(names.empty() ? "" : ", ", r.name);
    }
    throw Error(ErrorCode::kInvalidArgument,
                cat("there is no way of reading '", name, "'; there are: ", names));
}

std::string to_string(const ReadingFacts& facts) {
    const std::string rows =
        facts.least_rows > 0 ? cat(" from ", facts.least_rows, " rows on") : "";
    return cat(facts.name, rows, facts.why.empty() ? "" : cat(" (", facts.why, ")"));
}

/// Rows of x as a dense product takes them, and rows of zeros after them: dst [in, padded n].
class LinearProducts::RoundOp final : public CustomOp {
 public:
    void run(ggml_tensor* dst, int thread, int n_threads) noexcept override {
        const ggml_tensor* x = dst->src[0];
        const int64_t n = x->ne[1];
        for (int64_t i = dst->ne[1] * thread / n_threads; i < dst->ne[1] * (thread + 1) / n_threads;
             ++i) {
            char* to = static_cast<char*>(dst->data) + static_cast<size_t>(i) * dst->nb[1];
            if (i >= n) {
                std::memset(to, 0, dst->nb[1]);
            } else if (dst->type == GGML_TYPE_F32) {
                std::memcpy(to, row_of(x, i), dst->nb[1]);
            } else {
                round_to_bf16(row_of(x, i), x->ne[0], reinterpret_cast<uint16_t*>(to));
            }
        }
    }
};

/// What a product of many rows is made of.
struct LinearProducts::Tiles {
    Numbers numbers = Numbers::kF32;
    std::vector<Linear> matrices;  // a gate and what it is multiplied with, where `gating` is set
    std::optional<Gating> gating = {};
    int64_t n = 0;  // rows, unpadded
    int64_t inner = 0;
    std::vector<Tile> list = {};  // of the first matrix alone, where `gating` is set
    int64_t largest = 0;          // features in a tile
    /// For blocks and for the rows left after them, of whole tiles and of narrower ones.
    std::map<std::pair<int64_t, int64_t>, std::shared_ptr<const DenseProduct>> products = {};

    [[nodiscard]] size_t product_bytes() const {
        size_t most = 0;
        for (const auto& [shape, product] : products) {
            most = std::max(most, product->scratch_bytes());
        }
        return whole_lines(most);
    }
    [[nodiscard]] size_t weight_bytes() const {
        return whole_lines(static_cast<size_t>(largest * inner) * bytes_of(numbers));
    }
    [[nodiscard]] size_t row_bytes() const {
        return whole_lines(static_cast<size_t>(inner) * sizeof(float));
    }
    [[nodiscard]] size_t out_bytes() const {
        return whole_lines(static_cast<size_t>(kRowBlock * largest) * sizeof(float));
    }
    /// A tile's weights, one row as f32, the results; twice, for a gate.
    [[nodiscard]] size_t thread_bytes() const {
        const size_t halves = gating ? 2 : 1;
        return row_bytes() + product_bytes() + halves * (weight_bytes() + out_bytes());
    }
};

/// dst [sum of outs, n] f32, or, gated, [out, padded n] in the product's numbers; dst->src: x as
/// RoundOp left it. One piece of work: a tile of features, for all rows or a part of them.
class LinearProducts::TileOp final : public CustomOp {
 public:
    TileOp(Tiles tiles, const ThreadMemory& memory) : tiles_(std::move(tiles)), memory_(memory) {}

    void run(ggml_tensor* dst, int thread, int n_threads) noexcept override {
        const int64_t rows = dst->src[0]->ne[1];
        const int64_t blocks = (rows + kRowBlock - 1) / kRowBlock;
        const int64_t n_tiles = std::ssize(tiles_.list);
        const int64_t parts =
            std::clamp<int64_t>((kShares * n_threads + n_tiles - 1) / n_tiles, 1, blocks);
        Memory m(tiles_, memory_.of(thread));
        for (int64_t w = work_.take(); w < n_tiles * parts; w = work_.take()) {
            const int64_t part = w % parts;
            multiply(dst, tiles_.list[static_cast<size_t>(w / parts)],
                     {blocks * part / parts, blocks * (part + 1) / parts}, m);
        }
        work_.leave(n_threads);
    }

 private:
    /// A thread's, for the first matrix and, gated, the second.
    struct Memory {
        std::array<std::byte*, 2> weights{};
        std::array<float*, 2> out{};
        float* row = nullptr;
        std::byte* product = nullptr;

        Memory(const Tiles& t, std::byte* at) {
            const auto take = [&at](size_t bytes) {
                std::byte* piece = at;
                at += bytes;
                return piece;
            };
            row = reinterpret_cast<float*>(take(t.row_bytes()));
            product = take(t.product_bytes());
            for (size_t half = 0; half < (t.gating ? 2 : 1); ++half) {
                weights.at(half) = take(t.weight_bytes());
                out.at(half) = reinterpret_cast<float*>(take(t.out_bytes()));
            }
        }
    };
    struct Blocks {
        int64_t begin, end;
    };

    void multiply(ggml_tensor* dst, const Tile& tile, Blocks blocks, const Memory& m) const {
        const ggml_tensor* x = dst->src[0];
        const size_t halves = tiles_.gating ? 2 : 1;
        std::array<const void*, 2> weights{};
        for (size_t half = 0; half < halves; ++half) {
            weights.at(half) = plain_rows(tiles_.matrices[tile.matrix + half].weight, tile.first,
                                          tile.count, tiles_.numbers, m.weights.at(half), m.row);
        }
        for (int64_t b = blocks.begin; b < blocks.end; ++b) {
            const int64_t first = b * kRowBlock;
            const int64_t count = std::min(kRowBlock, x->ne[1] - first);
            const auto& product = *tiles_.products.find({count, tile.count})->second;
            for (size_t half = 0; half < halves; ++half) {
                product.run(row_of(x, first), weights.at(half), m.out.at(half), m.product);
            }
            for (int64_t r = 0; r < count; ++r) write_row(dst, tile, first + r, r, m);
        }
    }

    /// Row `i` of the result, which is row `r` of what was computed.
    void write_row(ggml_tensor* dst, const Tile& tile, int64_t i, int64_t r,
                   const Memory& m) const {
        if (i >= dst->ne[1]) return;  // rows that only fill up
        char* to = static_cast<char*>(dst->data) + static_cast<size_t>(i) * dst->nb[1] +
                   static_cast<size_t>(tile.column) * dst->nb[0];
        const float* out = m.out[0] + r * tile.count;
        if (tiles_.gating) {
            const float* up = m.out[1] + r * tile.count;
            if (dst->type == GGML_TYPE_F32) {
                gate_to_f32(*tiles_.gating, out, up, tile.count, reinterpret_cast<float*>(to));
            } else {
                gate_to_bf16(*tiles_.gating, out, up, tile.count, reinterpret_cast<uint16_t*>(to));
            }
            return;
        }
        const ggml_tensor* bias = tiles_.matrices[tile.matrix].bias;
        if (bias == nullptr) {
            std::memcpy(to, out, static_cast<size_t>(tile.count) * sizeof(float));
            return;
        }
        const float* add = static_cast<const float*>(bias->data) + tile.first;
        auto* sum = reinterpret_cast<float*>(to);
        for (int64_t c = 0; c < tile.count; ++c) sum[c] = out[c] + add[c];
    }

    Tiles tiles_;
    const ThreadMemory& memory_;
    WorkList work_;
};

LinearProducts::LinearProducts(Reading reading)
    : reading_(reading),
      has_bf16_(DenseProduct::obstacle(Numbers::kBf16).empty()),
      many_rows_(kManyRows) {
    // Where nothing is ever multiplied in another way, no number of rows is many.
    const bool never = reading == Reading::kQuantised || (reading == Reading::kAuto && !has_bf16_);
    if (never) many_rows_ = std::numeric_limits<int64_t>::max();
    if (reading == Reading::kAuto || reading == Reading::kQuantised) return;
    const std::string obstacle =
        DenseProduct::obstacle(reading == Reading::kBf16 ? Numbers::kBf16 : Numbers::kF32);
    if (!obstacle.empty()) {
        throw Error(
            ErrorCode::kUnsupported,
            cat("cannot read in ", reading == Reading::kBf16 ? "bf16" : "f32", ": ", obstacle));
    }
}

std::optional<Numbers> LinearProducts::numbers_for(ggml_type type) const {
    const bool is_plain = type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
    if (!is_plain && ggml_get_type_traits(type)->to_float == nullptr) return std::nullopt;
    switch (reading_) {
        case Reading::kQuantised:
            return std::nullopt;
        case Reading::kBf16:
            return Numbers::kBf16;
        case Reading::kF32:
            return Numbers::kF32;
        case Reading::kAuto:
            break;
    }
    // bf16 keeps less of weights stored in f32 and f16 than ggml's own product does.
    const bool keeps_enough = type != GGML_TYPE_F32 && type != GGML_TYPE_F16;
    return has_bf16_ && keeps_enough ? std::optional(Numbers::kBf16) : std::nullopt;
}

ReadingFacts LinearProducts::facts_for(ggml_type type) const {
    const auto numbers = numbers_for(type);
    if (numbers) {
        return {.name = *numbers == Numbers::kBf16 ? "bf16" : "f32",
                .least_rows = many_rows_,
                .why = DenseProduct::library()};
    }
    if (reading_ == Reading::kQuantised) return {.why = "asked for"};
    return {.why = has_bf16_ ? cat("weights of ", ggml_type_name(type), " would lose by bf16")
                             : DenseProduct::obstacle(Numbers::kBf16)};
}

std::optional<Numbers> LinearProducts::dense_for(std::span<const Linear> matrices) const {
    const auto numbers = numbers_for(matrices[0].weight->type);
    for (const Linear& l : matrices) {
        if (numbers_for(l.weight->type) != numbers) return std::nullopt;
    }
    return numbers;
}

std::shared_ptr<const DenseProduct> LinearProducts::product(Numbers numbers,
                                                            const ProductShape& shape) const {
    const std::lock_guard lock(mutex_);
    auto& made = made_[{numbers, shape}];
    if (made == nullptr) made = std::make_shared<const DenseProduct>(numbers, shape);
    return made;
}

Tensor LinearProducts::rounded(Graph& g, Numbers numbers, Tensor x) {
    const std::array<Tensor, 1> sources = {x};
    return g.custom({x->ne[0], padded(x->ne[1]), 1, 1}, sources, std::make_unique<RoundOp>(),
                    type_of(numbers));
}

Tensor LinearProducts::tiled(Graph& g, Tiles tiles, Tensor rows) const {
    int64_t n_out = 0;
    for (const Linear& l : tiles.matrices) n_out += l.weight->ne[1];
    tiles.inner = rows->ne[0];
    const int64_t size = tile_size(tiles.inner, n_out);
    // A gate's second matrix is computed with the first, tile by tile.
    const std::span<const Linear> listed(tiles.matrices.data(),
                                         tiles.gating ? 1 : tiles.matrices.size());
    tiles.list = tiles_of(listed, size);
    const int64_t last = (rows->ne[1] - 1) % kRowBlock + 1;
    for (const Tile& t : tiles.list) {
        tiles.largest = std::max(tiles.largest, t.count);
        for (const int64_t n : {std::min(kRowBlock, rows->ne[1]), last}) {
            auto& made = tiles.products[{n, t.count}];
            if (made == nullptr) made = product(tiles.numbers, {n, tiles.inner, t.count});
        }
    }
    const Shape shape =
        tiles.gating ? Shape{n_out / 2, rows->ne[1], 1, 1} : Shape{n_out, tiles.n, 1, 1};
    const ggml_type type = tiles.gating ? type_of(tiles.numbers) : GGML_TYPE_F32;
    const ThreadMemory& memory = g.thread_memory(tiles.thread_bytes());
    const std::array<Tensor, 1> sources = {rows};
    return g.custom(shape, sources, std::make_unique<TileOp>(std::move(tiles), memory), type);
}

Tensor LinearProducts::of(Graph& g, const Linear& l, Tensor x, bool many) const {
    return of(g, std::span(&l, 1), x, many)[0];
}

std::vector<Tensor> LinearProducts::of(Graph& g, std::span<const Linear> matrices, Tensor x,
                                       bool many) const {
    std::vector<Tensor> products;
    products.reserve(matrices.size());
    const auto numbers = many ? dense_for(matrices) : std::nullopt;
    if (!numbers) {
        for (const Linear& l : matrices) {
            Tensor y = ggml_mul_mat(g.ctx(), l.weight, x);
            products.push_back(l.bias == nullptr ? y : ggml_add(g.ctx(), y, l.bias));
        }
        return products;
    }
    Tensor all = tiled(
        g, {.numbers = *numbers, .matrices = {matrices.begin(), matrices.end()}, .n = x->ne[1]},
        rounded(g, *numbers, x));
    int64_t column = 0;
    for (const Linear& l : matrices) {
        const int64_t n_out = l.weight->ne[1];
        products.push_back(matrices.size() == 1
                               ? all
                               : ggml_view_2d(g.ctx(), all, n_out, all->ne[1], all->nb[1],
                                              static_cast<size_t>(column) * sizeof(float)));
        column += n_out;
    }
    return products;
}

Tensor LinearProducts::gated(Graph& g, const GatedLinear& l, Tensor x, bool many) const {
    const std::array<Linear, 3> all = {l.gate, l.up, l.down};
    const auto numbers = many ? dense_for(all) : std::nullopt;
    if (!numbers) {
        Tensor gate = ggml_mul_mat(g.ctx(), l.gate.weight, x);
        Tensor up = ggml_mul_mat(g.ctx(), l.up.weight, x);
        Tensor half = l.gating == Gating::kSilu ? ggml_swiglu_split(g.ctx(), gate, up)
                                                : ggml_geglu_split(g.ctx(), gate, up);
        return of(g, l.down, half, many);
    }
    const int64_t n = x->ne[1];
    Tensor half =
        tiled(g, {.numbers = *numbers, .matrices = {l.gate, l.up}, .gating = l.gating, .n = n},
              rounded(g, *numbers, x));
    return tiled(g, {.numbers = *numbers, .matrices = {l.down}, .n = n}, half);
}

}  // namespace palimpsest
