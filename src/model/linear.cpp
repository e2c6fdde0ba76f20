#include "model/linear.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "model/int8_kernel.h"
#include "model/int8_linear.h"

namespace palimpsest {

namespace {

constexpr int64_t kManyRows = 24;  // measured: docs/decisions/0010
constexpr int64_t kRowStep = 16;   // their number is a multiple of it, so that products are few
constexpr int64_t kLeastTile = 32;

struct NamedReading {
    std::string_view name;
    Reading reading;
};
constexpr std::array<NamedReading, 5> kReadings = {{{"auto", Reading::kAuto},
                                                    {"quantised", Reading::kQuantised},
                                                    {"int8", Reading::kInt8},
                                                    {"bf16", Reading::kBf16},
                                                    {"f32", Reading::kF32}}};

int64_t padded(int64_t n) { return (n + kRowStep - 1) / kRowStep * kRowStep; }

ggml_type type_of(Numbers numbers) {
    return numbers == Numbers::kBf16 ? GGML_TYPE_BF16 : GGML_TYPE_F32;
}
Numbers numbers_of(ProductKind kind) {
    return kind == ProductKind::kF32 ? Numbers::kF32 : Numbers::kBf16;
}
size_t bytes_of(Numbers numbers) { return ggml_type_size(type_of(numbers)); }

/// Features in a tile: few enough that threads share the work evenly, and never dependent on how
/// many threads there are.
int64_t tile_size(int64_t inner, int64_t n_out) {
    const int64_t fits = kTileBytes / (2 * inner);
    const int64_t shared = n_out / kTiles / kRowStep * kRowStep;
    return std::clamp(std::min(fits / kRowStep * kRowStep, shared), kLeastTile, kMostTile);
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

std::vector<std::string> reading_names() {
    std::vector<std::string> names;
    for (const NamedReading& r : kReadings) names.emplace_back(r.name);
    return names;
}

std::string to_string(const ReadingFacts& facts) {
    const std::string rows =
        facts.least_rows > 0 ? cat(" from ", facts.least_rows, " rows on") : "";
    const std::string fewer = facts.few == facts.name ? "" : cat(", ", facts.few, " for fewer");
    return cat(facts.name, rows, facts.why.empty() ? "" : cat(" (", facts.why, ")"), fewer);
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
    Matrices matrices;
    int64_t n = 0;  // rows, unpadded
    std::vector<Tile> list = {};
    int64_t largest = 0;  // features in a tile
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
        return whole_lines(static_cast<size_t>(largest * matrices.inner()) * bytes_of(numbers));
    }
    [[nodiscard]] size_t row_bytes() const {
        return whole_lines(static_cast<size_t>(matrices.inner()) * sizeof(float));
    }
    [[nodiscard]] size_t out_bytes() const {
        return whole_lines(static_cast<size_t>(kRowBlock * largest) * sizeof(float));
    }
    /// A tile's weights, one row as f32, the results; twice, for a gate.
    [[nodiscard]] size_t thread_bytes() const {
        const size_t halves = matrices.gating ? 2 : 1;
        return row_bytes() + product_bytes() + halves * (weight_bytes() + out_bytes());
    }
};

/// dst [sum of outs, n] f32, or, gated, [out, padded n] in the product's numbers; dst->src: x as
/// RoundOp left it. One piece of work: a tile of features, for all rows or a part of them.
class LinearProducts::TileOp final : public CustomOp {
 public:
    TileOp(Tiles tiles, const ThreadMemory& memory) : tiles_(std::move(tiles)), memory_(memory) {}

    void run(ggml_tensor* dst, int thread, int n_threads) noexcept override {
        const Memory m(tiles_, memory_.of(thread));
        share_tiles(work_, tiles_.list, dst->src[0]->ne[1], n_threads,
                    [&](const Tile& t, RowBlocks blocks) { multiply(dst, t, blocks, m); });
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
            for (size_t half = 0; half < (t.matrices.gating ? 2 : 1); ++half) {
                weights.at(half) = take(t.weight_bytes());
                out.at(half) = reinterpret_cast<float*>(take(t.out_bytes()));
            }
        }
    };
    void multiply(ggml_tensor* dst, const Tile& tile, RowBlocks blocks, const Memory& m) const {
        const ggml_tensor* x = dst->src[0];
        const size_t halves = tiles_.matrices.gating ? 2 : 1;
        std::array<const void*, 2> weights{};
        for (size_t half = 0; half < halves; ++half) {
            weights.at(half) =
                plain_rows(tiles_.matrices.list[tile.matrix + half].weight, tile.first, tile.count,
                           tiles_.numbers, m.weights.at(half), m.row);
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
        const auto& gating = tiles_.matrices.gating;
        if (!gating) {
            return write_results(tiles_.matrices.list[tile.matrix], tile, out,
                                 reinterpret_cast<float*>(to));
        }
        const float* up = m.out[1] + r * tile.count;
        if (dst->type == GGML_TYPE_F32) {
            gate_to_f32(*gating, out, up, tile.count, reinterpret_cast<float*>(to));
        } else {
            gate_to_bf16(*gating, out, up, tile.count, reinterpret_cast<uint16_t*>(to));
        }
    }

    Tiles tiles_;
    const ThreadMemory& memory_;
    WorkList work_;
};

namespace {

/// Why a reading that was asked for cannot be had; empty: it can.
std::string obstacle_to(Reading reading) {
    switch (reading) {
        case Reading::kInt8:
            return int8_obstacle();
        case Reading::kBf16:
            return DenseProduct::obstacle(Numbers::kBf16);
        case Reading::kF32:
            return DenseProduct::obstacle(Numbers::kF32);
        case Reading::kAuto:
        case Reading::kQuantised:
            break;
    }
    return {};
}

std::string_view name_of(Reading reading) {
    return std::ranges::find(kReadings, reading, &NamedReading::reading)->name;
}

constexpr std::string_view name_of(ProductKind kind) {
    switch (kind) {
        case ProductKind::kInt8:
            return "int8";
        case ProductKind::kBf16:
            return "bf16";
        case ProductKind::kF32:
            return "f32";
        case ProductKind::kQuantised:
            break;
    }
    return "quantised";
}

}  // namespace

LinearProducts::LinearProducts(Reading reading)
    : reading_(reading),
      has_int8_(int8_obstacle().empty()),
      has_bf16_(DenseProduct::obstacle(Numbers::kBf16).empty()),
      many_rows_(kManyRows) {
    // Where nothing is ever multiplied in another way, no number of rows is many.
    const bool never =
        reading == Reading::kQuantised || (reading == Reading::kAuto && !has_int8_ && !has_bf16_);
    if (never) many_rows_ = std::numeric_limits<int64_t>::max();
    const std::string obstacle = obstacle_to(reading);
    if (!obstacle.empty()) {
        throw Error(ErrorCode::kUnsupported,
                    cat("cannot read in ", name_of(reading), ": ", obstacle));
    }
}

ProductKind LinearProducts::kind_for(ggml_type type, bool many) const {
    const bool is_plain = type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
    const bool can_int8 = has_int8_ && int8_knows(type);
    const bool can_turn = is_plain || ggml_get_type_traits(type)->to_float != nullptr;
    if (reading_ == Reading::kQuantised) return ProductKind::kQuantised;
    if (!many) return can_int8 ? ProductKind::kInt8 : ProductKind::kQuantised;
    if (reading_ == Reading::kBf16 && can_turn) return ProductKind::kBf16;
    if (reading_ == Reading::kF32 && can_turn) return ProductKind::kF32;
    if (can_int8) return ProductKind::kInt8;
    // bf16 keeps less of weights stored in f32 and f16 than ggml's own product does.
    const bool keeps_enough = type != GGML_TYPE_F32 && type != GGML_TYPE_F16;
    return reading_ == Reading::kAuto && has_bf16_ && keeps_enough && can_turn
               ? ProductKind::kBf16
               : ProductKind::kQuantised;
}

ProductKind LinearProducts::kind_for(std::span<const Linear> matrices, bool many) const {
    const ProductKind kind = kind_for(matrices[0].weight->type, many);
    const bool is_same = std::ranges::all_of(
        matrices, [&](const Linear& l) { return kind_for(l.weight->type, many) == kind; });
    return is_same ? kind : ProductKind::kQuantised;
}

bool LinearProducts::rounds(const Linear& l) const {
    const ProductKind kind = kind_for(l.weight->type, true);
    return kind == ProductKind::kInt8 || kind == ProductKind::kBf16;
}

ReadingFacts LinearProducts::facts_for(ggml_type type) const {
    const ProductKind kind = kind_for(type, true);
    ReadingFacts facts = {.name = std::string(name_of(kind)),
                          .few = std::string(name_of(kind_for(type, false)))};
    if (kind != ProductKind::kQuantised) facts.least_rows = many_rows_;
    if (kind == ProductKind::kInt8) {
        facts.why = int8_instructions();
    } else if (kind != ProductKind::kQuantised) {
        facts.why = DenseProduct::library();
    } else if (reading_ == Reading::kQuantised) {
        facts.why = "asked for";
    } else if (has_bf16_) {
        facts.why = cat("weights of ", ggml_type_name(type), " would lose by bf16");
    } else {
        facts.why = DenseProduct::obstacle(Numbers::kBf16);
    }
    return facts;
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
    const bool gates = tiles.matrices.gating.has_value();
    const int64_t n_out = tiles.matrices.n_out();
    const int64_t inner = tiles.matrices.inner();
    tiles.list = tiles_of(tiles.matrices, tile_size(inner, gates ? 2 * n_out : n_out));
    const int64_t last = (rows->ne[1] - 1) % kRowBlock + 1;
    for (const Tile& t : tiles.list) {
        tiles.largest = std::max(tiles.largest, t.count);
        for (const int64_t n : {std::min(kRowBlock, rows->ne[1]), last}) {
            auto& made = tiles.products[{n, t.count}];
            if (made == nullptr) made = product(tiles.numbers, {n, inner, t.count});
        }
    }
    const Shape shape = {n_out, gates ? rows->ne[1] : tiles.n, 1, 1};
    const ggml_type type = gates ? type_of(tiles.numbers) : GGML_TYPE_F32;
    const ThreadMemory& memory = g.thread_memory(tiles.thread_bytes());
    const std::array<Tensor, 1> sources = {rows};
    return g.custom(shape, sources, std::make_unique<TileOp>(std::move(tiles), memory), type);
}

Tensor LinearProducts::of(Graph& g, const Linear& l, Tensor x, bool many) const {
    return of(g, std::span(&l, 1), x, many)[0];
}

Tensor LinearProducts::logits(Graph& g, const Linear& head, Tensor x, bool many) const {
    const bool is_exact = many && reading_ == Reading::kAuto && has_bf16_ &&
                          kind_for(head.weight->type, many) == ProductKind::kInt8;
    return is_exact ? dense(g, Numbers::kBf16, {.list = {head}}, x) : of(g, head, x, many);
}

std::vector<Tensor> LinearProducts::of(Graph& g, std::span<const Linear> matrices, Tensor x,
                                       bool many) const {
    std::vector<Tensor> products;
    products.reserve(matrices.size());
    const ProductKind kind = kind_for(matrices, many);
    if (kind == ProductKind::kQuantised) {
        for (const Linear& l : matrices) {
            Tensor y = ggml_mul_mat(g.ctx(), l.weight, x);
            products.push_back(l.bias == nullptr ? y : ggml_add(g.ctx(), y, l.bias));
        }
        return products;
    }
    Matrices m = {.list = {matrices.begin(), matrices.end()}};
    Tensor all = kind == ProductKind::kInt8 ? int8_product(g, std::move(m), x, many)
                                            : dense(g, numbers_of(kind), std::move(m), x);
    if (matrices.size() == 1) return {all};
    int64_t column = 0;
    for (const Linear& l : matrices) {
        const int64_t n_out = l.weight->ne[1];
        products.push_back(ggml_view_2d(g.ctx(), all, n_out, all->ne[1], all->nb[1],
                                        static_cast<size_t>(column) * sizeof(float)));
        column += n_out;
    }
    return products;
}

Tensor LinearProducts::dense(Graph& g, Numbers numbers, Matrices m, Tensor x) const {
    const int64_t n = x->ne[1];
    return tiled(g, {.numbers = numbers, .matrices = std::move(m), .n = n}, rounded(g, numbers, x));
}

Tensor LinearProducts::gated(Graph& g, const GatedLinear& l, Tensor x, bool many) const {
    const std::array<Linear, 3> all = {l.gate, l.up, l.down};
    const ProductKind kind = kind_for(all, many);
    if (kind == ProductKind::kQuantised) {
        Tensor gate = of(g, l.gate, x, many);
        Tensor up = of(g, l.up, x, many);
        Tensor half = l.gating == Gating::kSilu ? ggml_swiglu_split(g.ctx(), gate, up)
                                                : ggml_geglu_split(g.ctx(), gate, up);
        return of(g, l.down, half, many);
    }
    Matrices m = {.list = {l.gate, l.up}, .gating = l.gating};
    if (kind == ProductKind::kInt8) return int8_gated(g, std::move(m), l.down, x, many);
    const Numbers numbers = numbers_of(kind);
    const int64_t n = x->ne[1];
    Tensor half = dense(g, numbers, std::move(m), x);
    return tiled(g, {.numbers = numbers, .matrices = {.list = {l.down}}, .n = n}, half);
}

}  // namespace palimpsest
