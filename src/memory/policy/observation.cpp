#include "memory/policy/observation.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "core/error.h"
#include "memory/binary_stream.h"
#include "memory/policy/mass_rows.h"

namespace palimpsest {

// ---- QueryWindow
// ----------------------------------------------------------------------------------

QueryWindow::QueryWindow(const MemoryShape& shape, int64_t n_queries)
    : shape_(shape),
      n_queries_(n_queries),
      queries_(static_cast<size_t>(shape.n_layer * n_queries * shape.n_head * shape.d_head)),
      positions_(static_cast<size_t>(n_queries)) {}

float* QueryWindow::row(int64_t layer, int64_t slot, int64_t head) {
    return queries_.data() + ((layer * n_queries_ + slot) * shape_.n_head + head) * shape_.d_head;
}

const float* QueryWindow::row(int64_t layer, int64_t slot, int64_t head) const {
    return queries_.data() + ((layer * n_queries_ + slot) * shape_.n_head + head) * shape_.d_head;
}

int64_t QueryWindow::count() const { return std::min(noted_, n_queries_); }

/// Copies the step's last queries into the ring.
class QueryWindow::CopyOp final : public CustomOp {
 public:
    CopyOp(QueryWindow& window, int64_t layer) : window_(window), layer_(layer) {}

    void run(ggml_tensor* dst, int thread, int /*n_threads*/) noexcept override {
        if (thread != 0) return;
        const ggml_tensor* q = dst->src[0];
        const int64_t n = window_.n_step_;
        for (int64_t i = std::max<int64_t>(0, n - window_.n_queries_); i < n; ++i) {
            const int64_t slot = (window_.before_ + i) % window_.n_queries_;
            for (int64_t h = 0; h < q->ne[1]; ++h) {
                std::copy_n(head_row(q, h, i), q->ne[0], window_.row(layer_, slot, h));
            }
        }
    }

 private:
    QueryWindow& window_;
    int64_t layer_;
};

std::unique_ptr<Observer> QueryWindow::clone() const {
    return std::make_unique<QueryWindow>(*this);
}

void QueryWindow::begin(const Step& step, int64_t seen) {
    // A step planned twice counts once: what plan() of an earlier try added is taken back.
    before_ = seen == planned_at_ ? before_ : noted_;
    planned_at_ = seen;
    n_step_ = step.kind == StepKind::kAside ? 0 : step.n;
    noted_ = before_ + n_step_;
    for (int64_t i = std::max<int64_t>(0, n_step_ - n_queries_); i < n_step_; ++i) {
        positions_[static_cast<size_t>((before_ + i) % n_queries_)] =
            static_cast<int32_t>(seen + i);
    }
}

void QueryWindow::observe(Graph& g, const AttentionInputs& in, EntrySource& /*source*/,
                          AttentionScratch& /*scratch*/) {
    const std::array<Tensor, 1> sources = {in.q};
    g.keep(g.custom({1, 1, 1, 1}, sources, std::make_unique<CopyOp>(*this, in.layer)));
}

void QueryWindow::shift(int64_t positions) {
    Turner turner(shape_.rotation);
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        if (shape_.window(layer) > 0) continue;
        for (int64_t i = 0; i < count(); ++i) {
            for (int64_t h = 0; h < shape_.n_head; ++h) turner.turn(row(layer, i, h), positions);
        }
    }
}

void QueryWindow::reset() {
    noted_ = 0;
    before_ = 0;
    n_step_ = 0;
    planned_at_ = -1;
}

size_t QueryWindow::bytes() const {
    return queries_.size() * sizeof(float) + positions_.size() * sizeof(int32_t);
}

void QueryWindow::save(std::ostream& out) const {
    put(out, noted_);
    put_all(out, positions_);
    put_all(out, queries_);
}

void QueryWindow::load(std::istream& in) {
    const auto noted = take<int64_t>(in);
    auto positions = take_all<int32_t>(in, n_queries_);
    auto queries = take_all<float>(in, std::ssize(queries_));
    if (noted < 0 || positions.size() != positions_.size() || queries.size() != queries_.size()) {
        throw Error(ErrorCode::kCorrupt, "the saved memory noted other queries");
    }
    reset();
    noted_ = noted;
    positions_ = std::move(positions);
    queries_ = std::move(queries);
}

std::vector<float> QueryWindow::attention(const LayerView& view, int64_t head,
                                          Reduce reduce) const {
    const HeadView& held = view.heads[static_cast<size_t>(head)];
    const int64_t n = std::ssize(held.positions);
    const int64_t group = shape_.group();
    std::vector<float> mass(static_cast<size_t>(n));
    std::array<QueryRow, kMaxRows> rows;
    std::array<float, kMaxRows> lse{};
    const int64_t total = count() * group;
    for (int64_t first = 0; first < total; first += kMaxRows) {
        const int64_t n_rows = std::min(kMaxRows, total - first);
        for (int64_t r = 0; r < n_rows; ++r) {
            const int64_t slot = (first + r) / group;
            const auto end =
                std::ranges::upper_bound(held.positions, positions_[static_cast<size_t>(slot)]);
            const auto i = static_cast<size_t>(r);
            rows.at(i) = {.q = row(view.layer, slot, head * group + (first + r) % group),
                          .out = nullptr,
                          .lse = &lse.at(i),
                          .begin = 0,
                          .end = end - held.positions.begin()};
        }
        const auto all = std::span(rows).first(static_cast<size_t>(n_rows));
        sum_logits(held.rows, all, view.scale, view.scratch);
        add_mass(held.rows, all, {0, n}, view.scale, {mass.data(), reduce}, view.scratch);
    }
    return mass;
}

// ---- ColumnMass
// -----------------------------------------------------------------------------------

ColumnMass::ColumnMass(const MemoryShape& shape, std::string_view owner)
    : shape_(shape), mass_(shape, owner) {}

/// Adds the weights up; by slots, so that the sum does not depend on the number of threads.
class ColumnMass::MassOp final : public CustomOp {
 public:
    MassOp(ColumnMass& mass, EntrySource& source, AttentionScratch& scratch,
           const AttentionInputs& in)
        : mass_(mass), source_(source), scratch_(scratch), layer_(in.layer), scale_(in.scale) {}

    void run(ggml_tensor* dst, int thread, int n_threads) noexcept override {
        if (!mass_.is_noted_) return;
        const ggml_tensor* q = dst->src[0];
        const int64_t n = q->ne[2];
        const int64_t group = mass_.shape_.group();
        for (int64_t h = 0; h < mass_.shape_.n_head_kv; ++h) {
            std::vector<float>& of = mass_.mass_.of(layer_, h);
            const int64_t total = source_.visible(layer_, h, n - 1).end;
            const int64_t begin = total * thread / n_threads;
            const int64_t end = total * (thread + 1) / n_threads;
            for (int64_t first = 0; first < n * group; first += kMaxRows) {
                const MassRows rows({q, layer_, h, group}, source_, scratch_, first);
                add_mass(source_.rows(layer_, h), rows.all, {begin, end}, scale_,
                         {of.data() + begin, Reduce::kSum}, scratch_.of_thread(thread));
            }
        }
    }

 private:
    ColumnMass& mass_;
    EntrySource& source_;
    AttentionScratch& scratch_;
    int64_t layer_;
    float scale_;
};

std::unique_ptr<Observer> ColumnMass::clone() const { return std::make_unique<ColumnMass>(*this); }

void ColumnMass::begin(const Step& step, int64_t seen) {
    is_noted_ = step.kind != StepKind::kAside;
    mass_.grow(step.n, seen, 0.0F);
}

void ColumnMass::observe(Graph& g, const AttentionInputs& in, EntrySource& source,
                         AttentionScratch& scratch) {
    const std::array<Tensor, 1> queries = {in.q};
    g.keep(g.custom({1, 1, 1, 1}, queries, std::make_unique<MassOp>(*this, source, scratch, in)));
}

// ---- QueryMoments
// ---------------------------------------------------------------------------------

QueryMoments::QueryMoments(const MemoryShape& shape, int64_t n_skip)
    : shape_(shape),
      n_skip_(n_skip),
      values_(
          static_cast<size_t>(shape.n_layer * shape.n_head * shape.d_head * (shape.d_head + 1))) {}

float* QueryMoments::at(int64_t layer, int64_t head) {
    return values_.data() + (layer * shape_.n_head + head) * shape_.d_head * (shape_.d_head + 1);
}

std::span<const float> QueryMoments::mean(int64_t layer, int64_t head) const {
    const auto d = static_cast<size_t>(shape_.d_head);
    return std::span(values_).subspan(
        static_cast<size_t>(layer * shape_.n_head + head) * d * (d + 1), d);
}

std::span<const float> QueryMoments::deviations(int64_t layer, int64_t head) const {
    const auto d = static_cast<size_t>(shape_.d_head);
    return std::span(values_).subspan(
        static_cast<size_t>(layer * shape_.n_head + head) * d * (d + 1) + d, d * d);
}

/// By query heads.
class QueryMoments::AddOp final : public CustomOp {
 public:
    AddOp(QueryMoments& moments, AttentionScratch& scratch, int64_t layer)
        : moments_(moments), scratch_(scratch), layer_(layer) {}

    void run(ggml_tensor* dst, int thread, int n_threads) noexcept override {
        const ggml_tensor* q = dst->src[0];
        const int64_t d = q->ne[0];
        std::vector<float> block(static_cast<size_t>(d * d));
        for (int64_t h = thread; h < q->ne[1]; h += n_threads) {
            int64_t before = moments_.before_;
            // Blocks of d queries: their products are d x d by d, which the kernel's memory is for.
            for (int64_t i = moments_.first_; i < q->ne[2]; i += d) {
                const int64_t n = std::min(d, q->ne[2] - i);
                for (int64_t r = 0; r < n; ++r) {
                    std::copy_n(head_row(q, h, i + r), d, block.data() + r * d);
                }
                moments_.add(moments_.at(layer_, h), before, block, n, scratch_.of_thread(thread));
                before += n;
            }
        }
    }

 private:
    QueryMoments& moments_;
    AttentionScratch& scratch_;
    int64_t layer_;
};

/// Joins n queries to the moments of n_before (Chan, Golub and LeVeque, 1979: sums of deviations
/// join without cancellation).
void QueryMoments::add(float* moments, int64_t n_before, std::span<const float> queries, int64_t n,
                       float* scratch) const {
    const int64_t d = shape_.d_head;
    std::vector<double> sum(static_cast<size_t>(d));
    for (int64_t r = 0; r < n; ++r) {
        for (int64_t c = 0; c < d; ++c) {
            sum[static_cast<size_t>(c)] +=
                static_cast<double>(queries[static_cast<size_t>(r * d + c)]);
        }
    }
    // Deviations from the block's own mean, channel after channel: [d][n padded to d with zeros].
    std::vector<float> columns(static_cast<size_t>(d * d));
    std::vector<float> shift(static_cast<size_t>(d));
    const double weight = static_cast<double>(n_before) / static_cast<double>(n_before + n);
    for (int64_t c = 0; c < d; ++c) {
        const double mean = sum[static_cast<size_t>(c)] / static_cast<double>(n);
        for (int64_t r = 0; r < n; ++r) {
            columns[static_cast<size_t>(c * d + r)] = static_cast<float>(
                static_cast<double>(queries[static_cast<size_t>(r * d + c)]) - mean);
        }
        const double apart = mean - static_cast<double>(moments[c]);
        shift[static_cast<size_t>(c)] = static_cast<float>(apart);
        moments[c] = static_cast<float>(static_cast<double>(moments[c]) + apart * (1 - weight));
    }
    std::vector<float> products(static_cast<size_t>(d * d));
    const auto* bytes = reinterpret_cast<const std::byte*>(columns.data());
    const EntryRows rows = {.type = GGML_TYPE_F32,
                            .k = bytes,
                            .v = bytes,
                            .row_bytes = static_cast<size_t>(d) * sizeof(float),
                            .d = d};
    multiply_keys(rows, {0, d}, columns, products.data(), scratch);
    const auto between = static_cast<float>(weight * static_cast<double>(n));
    float* deviations = moments + d;
    for (int64_t a = 0; a < d; ++a) {
        const float left = between * shift[static_cast<size_t>(a)];
        for (int64_t b = 0; b < d; ++b) {
            deviations[a * d + b] +=
                products[static_cast<size_t>(a * d + b)] + left * shift[static_cast<size_t>(b)];
        }
    }
}

std::unique_ptr<Observer> QueryMoments::clone() const {
    return std::make_unique<QueryMoments>(*this);
}

void QueryMoments::begin(const Step& step, int64_t seen) {
    before_ = seen == planned_at_ ? before_ : count_;
    planned_at_ = seen;
    first_ =
        step.kind == StepKind::kAside ? step.n : std::clamp<int64_t>(n_skip_ - seen, 0, step.n);
    count_ = before_ + step.n - first_;
}

void QueryMoments::observe(Graph& g, const AttentionInputs& in, EntrySource& /*source*/,
                           AttentionScratch& scratch) {
    const std::array<Tensor, 1> sources = {in.q_raw};
    g.keep(g.custom({1, 1, 1, 1}, sources, std::make_unique<AddOp>(*this, scratch, in.layer)));
}

void QueryMoments::reset() {
    count_ = 0;
    before_ = 0;
    planned_at_ = -1;
    std::ranges::fill(values_, 0.0F);
}

size_t QueryMoments::bytes() const { return values_.size() * sizeof(float); }

void QueryMoments::save(std::ostream& out) const {
    put(out, count_);
    put_all(out, values_);
}

void QueryMoments::load(std::istream& in) {
    const auto count = take<int64_t>(in);
    auto values = take_all<float>(in, std::ssize(values_));
    if (count < 0 || values.size() != values_.size()) {
        throw Error(ErrorCode::kCorrupt, "the saved memory noted other queries");
    }
    reset();
    count_ = count;
    values_ = std::move(values);
}

}  // namespace palimpsest
