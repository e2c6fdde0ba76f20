#include "model/int8_linear.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "model/int8_kernel.h"

namespace palimpsest {

namespace {

constexpr int64_t kUnit = 8;       // features of a piece, for few rows
constexpr int64_t kFewTile = 256;  // features whose results are held before they are written
// So few rows are rounded by every thread for itself: sooner than waiting for one that does it.
constexpr int64_t kRoundedByAll = 8;

size_t floats(int64_t n) { return whole_lines(static_cast<size_t>(n) * sizeof(float)); }
int64_t whole_steps(int64_t features) {
    return (features + Int8Tile::kStep - 1) / Int8Tile::kStep * Int8Tile::kStep;
}

/// Hands out a thread's memory, piece by piece.
class Pieces {
 public:
    explicit Pieces(std::byte* at) : at_(at) {}
    template <class T>
    T* take(size_t bytes) {
        return reinterpret_cast<T*>(std::exchange(at_, at_ + bytes));
    }

 private:
    std::byte* at_;
};

/// Where rows come from: a norm is taken of them on the way, if they are the result of one. Whoever
/// else reads that result has it computed; else it is left out of the graph.
class Source {
 public:
    explicit Source(Tensor x) : x_(x), inner_(x->ne[0]) {
        if (x->op != GGML_OP_MUL || x->src[0]->op != GGML_OP_RMS_NORM) return;
        const ggml_tensor* weight = x->src[1];
        if (ggml_nelements(weight) != inner_ || weight->type != GGML_TYPE_F32) return;
        x_ = x->src[0]->src[0];
        norm_ = x->src[1];
        std::memcpy(&epsilon_, x->src[0]->op_params, sizeof epsilon_);
    }

    /// What a node must come after.
    [[nodiscard]] std::vector<Tensor> tensors() const {
        return norm_ == nullptr ? std::vector{x_} : std::vector{x_, norm_};
    }
    /// Of a thread, to round rows in.
    [[nodiscard]] size_t bytes() const { return norm_ == nullptr ? 0 : floats(inner_); }
    /// Row i, rounded.
    void round(int64_t i, RowGroups groups, std::byte* to, float* normed) const {
        const float* row = row_of(x_, i);
        if (norm_ != nullptr) {
            rms_norm_row(row, static_cast<const float*>(norm_->data), inner_, epsilon_, normed);
            row = normed;
        }
        round_to_int8(row, 0, inner_, inner_, groups, to);
    }

 private:
    Tensor x_;
    int64_t inner_;
    Tensor norm_ = nullptr;
    float epsilon_ = 0;
};

/// Rows [in, n] as they are multiplied: dst i8 [row bytes, n].
class RoundOp final : public CustomOp {
 public:
    RoundOp(const Source& source, RowGroups groups, Graph& g)
        : source_(source), groups_(groups), memory_(g.thread_memory(source.bytes())) {}

    void run(ggml_tensor* dst, int thread, int n_threads) noexcept override {
        const int64_t n = dst->ne[1];
        auto* normed = reinterpret_cast<float*>(memory_.of(thread));
        for (int64_t i = n * thread / n_threads; i < n * (thread + 1) / n_threads; ++i) {
            source_.round(i, groups_, static_cast<std::byte*>(dst->data) + i * dst->ne[0], normed);
        }
    }

 private:
    Source source_;
    RowGroups groups_;
    const ThreadMemory& memory_;
};

Tensor rounded(Graph& g, Tensor x, RowGroups groups) {
    const Source source(x);
    const std::vector<Tensor> sources = source.tensors();
    return g.custom({int8_row_bytes(x->ne[0]), x->ne[1], 1, 1}, sources,
                    std::make_unique<RoundOp>(source, groups, g), GGML_TYPE_I8);
}

Int8Rows rows_of(const ggml_tensor* rounded, int64_t inner) {
    return {
        .data = static_cast<const std::byte*>(rounded->data), .n = rounded->ne[1], .inner = inner};
}

// ---- few rows -----------------------------------------------------------------------------------

/// dst [n_out, n] f32; dst->src: rounded rows or, where each thread rounds all for itself, what
/// they come from.
class FewOp final : public CustomOp {
 public:
    FewOp(Matrices m, int64_t n, std::optional<Source> own, Graph& g)
        : m_(std::move(m)),
          n_(n),
          own_(own),
          tiles_(tiles_of(m_, kFewTile)),
          memory_(g.thread_memory(rounded_bytes() + (own ? own->bytes() : 0) + ordered_bytes() +
                                  2 * floats(n * kFewTile))) {}

    void run(ggml_tensor* dst, int thread, int n_threads) noexcept override {
        Pieces pieces(memory_.of(thread));
        auto* rounded = pieces.take<std::byte>(rounded_bytes());
        auto* normed = pieces.take<float>(own_ ? own_->bytes() : 0);
        auto* ordered = pieces.take<std::byte>(ordered_bytes());
        const std::array<float*, 2> results = {pieces.take<float>(floats(n_ * kFewTile)),
                                               pieces.take<float>(floats(n_ * kFewTile))};
        const Int8FewRows rows = int8_order_few(ready(dst->src[0], rounded, normed), ordered);
        const WorkRanges ranges((dst->ne[0] + kUnit - 1) / kUnit, n_threads);
        for (int64_t i = work_.take(); i < ranges.count(); i = work_.take()) {
            for (const Tile& t : tiles_) {
                const int64_t begin = std::max(ranges[i].begin * kUnit, t.column);
                const int64_t end = std::min(ranges[i].end * kUnit, t.column + t.count);
                if (begin >= end) continue;
                multiply(dst,
                         {.matrix = t.matrix,
                          .first = t.first + begin - t.column,
                          .count = end - begin,
                          .column = begin},
                         rows, results);
            }
        }
        work_.leave(n_threads);
    }

 private:
    [[nodiscard]] size_t rounded_bytes() const {
        return own_ ? whole_lines(static_cast<size_t>(n_ * int8_row_bytes(m_.inner()))) : 0;
    }
    [[nodiscard]] size_t ordered_bytes() const { return int8_few_bytes(n_, m_.inner()); }
    [[nodiscard]] Int8Rows ready(const ggml_tensor* x, std::byte* rounded, float* normed) const {
        if (!own_) return rows_of(x, m_.inner());
        for (int64_t i = 0; i < n_; ++i) {
            own_->round(i, RowGroups::k16, rounded + i * int8_row_bytes(m_.inner()), normed);
        }
        return {.data = rounded, .n = n_, .inner = m_.inner()};
    }

    void multiply(ggml_tensor* dst, const Tile& tile, const Int8FewRows& rows,
                  const std::array<float*, 2>& results) const {
        const size_t halves = m_.gating ? 2 : 1;
        for (size_t half = 0; half < halves; ++half) {
            int8_multiply_few(m_.list[tile.matrix + half].weight, tile.first, tile.count, rows,
                              {.data = results.at(half), .stride = tile.count});
        }
        for (int64_t r = 0; r < n_; ++r) {
            float* to = row_of(dst, r) + tile.column;
            const float* first = results[0] + r * tile.count;
            if (m_.gating) {
                gate_to_f32(*m_.gating, first, results[1] + r * tile.count, tile.count, to);
            } else {
                write_results(m_.list[tile.matrix], tile, first, to);
            }
        }
    }

    Matrices m_;
    int64_t n_;
    std::optional<Source> own_;
    std::vector<Tile> tiles_;
    const ThreadMemory& memory_;
    WorkList work_;
};

// ---- many rows ----------------------------------------------------------------------------------

/// A gate's rows are what a norm left, half of all products, and lose least: measured, decision 11.
RowGroups groups_of(const Matrices& m) { return m.gating ? RowGroups::k32 : RowGroups::k16; }

/// Features in a tile: few enough that threads share the work evenly, and never dependent on how
/// many threads there are.
int64_t tile_size(const Matrices& m) {
    // round_to_int8() takes so many numbers at once.
    const int64_t step = m.gating ? 2 * Int8Tile::kStep : Int8Tile::kStep;
    const auto step_bytes = static_cast<int64_t>(Int8Tile::bytes(step, m.inner()));
    const int64_t fits = kTileBytes / (step_bytes * (m.gating ? 2 : 1)) * step;
    const int64_t shared = m.n_out() / kTiles / step * step;
    return std::clamp(std::min(fits, shared), step, kMostTile);
}

/// dst [n_out, n] f32 or, gated, [row bytes, n] rounded; dst->src: rounded rows. One piece of work:
/// a tile of features, for all rows or a part of them.
class ManyOp final : public CustomOp {
 public:
    ManyOp(Matrices m, Graph& g)
        : m_(std::move(m)),
          size_(tile_size(m_)),
          tiles_(tiles_of(m_, size_)),
          memory_(g.thread_memory(halves() * (tile_bytes() + result_bytes()))) {}

    void run(ggml_tensor* dst, int thread, int n_threads) noexcept override {
        const Memory memory = memory_of(thread);
        share_tiles(work_, tiles_, dst->src[0]->ne[1], n_threads,
                    [&](const Tile& t, RowBlocks blocks) { multiply(dst, t, blocks, memory); });
    }

 private:
    /// A thread's, for the first matrix and, gated, the second.
    struct Memory {
        std::array<std::byte*, 2> tiles{};
        std::array<float*, 2> results{};
    };

    [[nodiscard]] size_t halves() const { return m_.gating ? 2 : 1; }
    [[nodiscard]] size_t tile_bytes() const { return Int8Tile::bytes(size_, m_.inner()); }
    [[nodiscard]] size_t result_bytes() const { return floats(kRowBlock * size_); }
    [[nodiscard]] Memory memory_of(int thread) const {
        Pieces pieces(memory_.of(thread));
        Memory m;
        for (size_t half = 0; half < halves(); ++half) {
            m.tiles.at(half) = pieces.take<std::byte>(tile_bytes());
            m.results.at(half) = pieces.take<float>(result_bytes());
        }
        return m;
    }

    void multiply(ggml_tensor* dst, const Tile& tile, RowBlocks blocks,
                  const Memory& memory) const {
        const auto ordered = [&](size_t half) {
            return Int8Tile(m_.list[tile.matrix + half].weight, tile.first, tile.count,
                            memory.tiles.at(half));
        };
        const Int8Tile first = ordered(0);
        const Int8Tile second = m_.gating ? ordered(1) : first;
        const int64_t stride = whole_steps(tile.count);
        for (int64_t b = blocks.begin; b < blocks.end; ++b) {
            const int64_t start = b * kRowBlock;
            Int8Rows rows = rows_of(dst->src[0], m_.inner());
            rows.data += start * int8_row_bytes(rows.inner);
            rows.n = std::min(kRowBlock, rows.n - start);
            rows.groups = groups_of(m_);
            if (can_write(tile)) {
                first.multiply(rows, {.data = row_of(dst, start) + tile.column,
                                      .stride = static_cast<int64_t>(dst->nb[1] / sizeof(float))});
                continue;
            }
            first.multiply(rows, {.data = memory.results[0], .stride = stride});
            if (m_.gating) second.multiply(rows, {.data = memory.results[1], .stride = stride});
            for (int64_t r = 0; r < rows.n; ++r) {
                float* results = memory.results[0] + r * stride;
                if (m_.gating) {
                    const float* up = memory.results[1] + r * stride;
                    gate_to_f32(*m_.gating, results, up, tile.count, results);
                    round_to_int8(results, tile.first, tile.count, m_.n_out(), RowGroups::k16,
                                  static_cast<std::byte*>(dst->data) + (start + r) * dst->ne[0]);
                } else {
                    write_results(m_.list[tile.matrix], tile, results,
                                  row_of(dst, start + r) + tile.column);
                }
            }
        }
    }

    /// May results go straight to where they belong?
    [[nodiscard]] bool can_write(const Tile& tile) const {
        return !m_.gating && m_.list[tile.matrix].bias == nullptr &&
               tile.count % Int8Tile::kStep == 0;
    }

    Matrices m_;
    int64_t size_;
    std::vector<Tile> tiles_;
    const ThreadMemory& memory_;
    WorkList work_;
};

Tensor many_node(Graph& g, Matrices m, Tensor rows) {
    const int64_t n_out = m.n_out();
    const bool gates = m.gating.has_value();
    const std::array<Tensor, 1> sources = {rows};
    return g.custom({gates ? int8_row_bytes(n_out) : n_out, rows->ne[1], 1, 1}, sources,
                    std::make_unique<ManyOp>(std::move(m), g),
                    gates ? GGML_TYPE_I8 : GGML_TYPE_F32);
}

Tensor few_node(Graph& g, Matrices m, Tensor x) {
    const int64_t n = x->ne[1];
    const Shape shape = {m.n_out(), n, 1, 1};
    std::optional<Source> own;
    std::vector<Tensor> sources;
    if (n <= kRoundedByAll) {
        sources = own.emplace(x).tensors();
    } else {
        sources = {rounded(g, x, RowGroups::k16)};
    }
    return g.custom(shape, sources, std::make_unique<FewOp>(std::move(m), n, own, g));
}

}  // namespace

Tensor int8_product(Graph& g, Matrices m, Tensor x, bool many) {
    if (!many) return few_node(g, std::move(m), x);
    Tensor rows = rounded(g, x, groups_of(m));
    return many_node(g, std::move(m), rows);
}

Tensor int8_gated(Graph& g, Matrices m, const Linear& down, Tensor x, bool many) {
    Matrices last = {.list = {down}};
    if (!many) return few_node(g, std::move(last), few_node(g, std::move(m), x));
    Tensor rows = rounded(g, x, groups_of(m));
    return many_node(g, std::move(last), many_node(g, std::move(m), rows));
}

}  // namespace palimpsest
