// Keeps what a trained indexer ranks highest.
//
// IndexMem (arXiv:2605.25475, section 3.1): every layer has a small attention-like scorer with one
// key a token; an entry matters as much as the query that needs it most. While a prompt is read,
// the maximum runs over all its queries; while text is written, over the queries since the last
// cut, and what earlier ones found is not carried over. One score for all KV heads of a layer, or,
// where the weights have groups of KV heads (ours), one for each group.
//
// Taken from the paper where it and the released code differ: queries see earlier tokens only, and
// the scale of the heads' weights. `reuse` (appendix B.3): the first of so many layers scores for
// all of them.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "memory/binary_stream.h"
#include "memory/policy/index_kernel.h"
#include "memory/policy/policies.h"

namespace palimpsest {

namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();
constexpr int64_t kMostRows = int64_t{1} << 24;

/// What a layer has of the tokens that any of its heads still holds, in order of position.
struct Rows {
    std::vector<int32_t> positions;
    /// [group][row], over the queries read so far; -inf: none has looked.
    std::vector<std::vector<float>> importance;
    std::vector<std::byte> keys;

    explicit Rows(int64_t n_group) : importance(static_cast<size_t>(n_group)) {}

    [[nodiscard]] int64_t count() const { return std::ssize(positions); }

    void resize(int64_t n, size_t key_bytes) {
        const auto size = static_cast<size_t>(n);
        positions.reserve(size);  // to the row: it is counted
        keys.reserve(size * key_bytes);
        positions.resize(size);
        for (std::vector<float>& of : importance) {
            of.reserve(size);
            of.resize(size, kNothing);
        }
        keys.resize(size * key_bytes);
    }

    /// Only rows at `kept` positions (ascending) are left. Throws kCorrupt if one is not there:
    /// rows that were loaded are of other entries.
    void keep(std::span<const int32_t> kept, size_t key_bytes) {
        size_t from = 0;
        for (size_t to = 0; to < kept.size(); ++to, ++from) {
            while (from < positions.size() && positions[from] != kept[to]) ++from;
            if (from == positions.size()) {
                throw Error(
                    ErrorCode::kCorrupt,
                    cat("the saved memory does not fit: the indexer has no key of position ",
                        kept[to], ", which is held"));
            }
            positions[to] = positions[from];
            for (std::vector<float>& of : importance) of[to] = of[from];
            std::memmove(keys.data() + to * key_bytes, keys.data() + from * key_bytes, key_bytes);
        }
        positions.resize(kept.size());
        for (std::vector<float>& of : importance) of.resize(kept.size());
        keys.resize(kept.size() * key_bytes);
    }

    [[nodiscard]] size_t bytes() const {
        size_t n = positions.capacity() * sizeof(int32_t) + keys.capacity();
        for (const std::vector<float>& of : importance) n += of.capacity() * sizeof(float);
        return n;
    }
};

/// How a step counts.
enum class Mode {
    kIgnored,  // read on top of what is held
    kReading,  // its queries raise what they look at
    kWriting,  // its query is noted until the next cut
};

const IndexerWeights& weights_of(const PartInputs& in) {
    require(in.learned != nullptr && in.learned->indexer() != nullptr,
            "policy 'indexer' needs a trained indexer",
            in.learned == nullptr ? cat("; name its file with --sidecar, or train one with "
                                        "'palimpsest train indexer'")
                                  : cat("; the sidecar '", in.learned->path(), "' holds none"));
    return *in.learned->indexer();
}

/// The indexer's keys, and how much the queries so far need each of them.
class IndexedTokens final : public Observer {
 public:
    explicit IndexedTokens(const PartInputs& in)
        : weights_(weights_of(in)),
          shape_(in.shape),
          is_f16_(in.entries != GGML_TYPE_F32),
          reuse_(in.options.integer("reuse", 1, 1, 64)),
          n_noted_(in.interval),
          rows_(static_cast<size_t>(shape_.n_layer), Rows(weights_.n_group)),
          still_held_(static_cast<size_t>(shape_.n_layer)),
          noted_(static_cast<size_t>(shape_.n_layer)),
          noted_at_(static_cast<size_t>(n_noted_)) {
        const int64_t floats = n_noted_ * weights_.n_head * (weights_.d_head + 1);
        for (int64_t i = 0; i < shape_.n_layer; ++i) {
            if (leads(i)) noted_[index(i)].resize(static_cast<size_t>(floats));
        }
    }

    [[nodiscard]] std::unique_ptr<Observer> clone() const override {
        return std::make_unique<IndexedTokens>(*this);
    }

    void begin(const Step& step, int64_t seen) override {
        // A step planned twice counts once.
        if (seen != planned_at_) {
            follows_prefill_ = more_follows_;
            before_ = n_written_;
            held_.clear();
            if (reuse_ > 1) keep_of_groups();
            for (const Rows& of : rows_) held_.push_back(of.count());
        }
        planned_at_ = seen;
        more_follows_ = step.is_prefill;
        const bool writes = step.n == 1 && !step.is_prefill && !follows_prefill_;
        mode_ = step.kind == StepKind::kAside ? Mode::kIgnored
                : writes                      ? Mode::kWriting
                                              : Mode::kReading;
        n_written_ = mode_ == Mode::kReading ? 0 : before_;
        if (mode_ == Mode::kWriting) {
            noted_at_[static_cast<size_t>(n_written_ % n_noted_)] = static_cast<int32_t>(seen);
            ++n_written_;
        }
        for (int64_t i = 0; i < shape_.n_layer; ++i) {
            if (!leads(i)) continue;
            Rows& of = rows_[index(i)];
            of.resize(held_[index(i)] + step.n, key_bytes());
            for (int64_t t = 0; t < step.n; ++t) {
                of.positions[index(held_[index(i)] + t)] = static_cast<int32_t>(seen + t);
            }
        }
    }

    void observe(Graph& g, const AttentionInputs& in, EntrySource& /*source*/,
                 AttentionScratch& /*scratch*/) override {
        if (!leads(in.layer)) return;
        ggml_context* c = g.ctx();
        const IndexerLayer& w = weights_.layers[index(in.layer)];
        const int64_t n = in.hidden->ne[1];
        Tensor queries = ggml_reshape_2d(c, in.q_raw, shape_.n_head * shape_.d_head, n);
        queries =
            ggml_reshape_3d(c, ggml_mul_mat(c, w.q, queries), weights_.d_head, weights_.n_head, n);
        queries = norm(c, queries, w.q_norm);
        Tensor keys = norm(c, add(c, ggml_mul_mat(c, w.k, in.hidden), w.k_bias), w.k_norm);
        Tensor alpha = add(c, ggml_mul_mat(c, w.head, in.hidden), w.head_bias);
        const auto width = static_cast<float>(weights_.n_head * weights_.d_head);
        alpha = ggml_scale(c, alpha, 1.0F / std::sqrt(width));
        const std::array<Tensor, 3> parts = {queries, keys, alpha};
        Tensor stored =
            g.keep(g.custom({1, 1, 1, 1}, parts, std::make_unique<StoreOp>(*this, in.layer)));
        const std::array<Tensor, 3> asked = {queries, alpha, stored};
        g.keep(g.custom({1, 1, 1, 1}, asked, std::make_unique<RaiseOp>(*this, in.layer)));
    }

    void held(int64_t layer, std::span<const std::span<const int32_t>> heads) override {
        std::vector<int32_t> all;
        for (const auto& head : heads) all = union_of(all, head);
        // Layers come several at once: what a group holds is known when all of it have come.
        if (reuse_ > 1) {
            still_held_[index(layer)] = std::move(all);
        } else {
            rows_[index(layer)].keep(all, key_bytes());
        }
    }

    void reset() override {
        for (Rows& of : rows_) of = Rows(weights_.n_group);
        for (auto& of : still_held_) of.clear();
        n_written_ = 0;
        before_ = 0;
        planned_at_ = -1;
        more_follows_ = false;
        follows_prefill_ = false;
    }

    [[nodiscard]] size_t bytes() const override {
        size_t n = noted_at_.size() * sizeof(int32_t);
        for (const Rows& of : rows_) n += of.bytes();
        for (const auto& of : noted_) n += of.size() * sizeof(float);
        for (const auto& of : still_held_) n += of.capacity() * sizeof(int32_t);
        return n;
    }
    [[nodiscard]] size_t bytes_per_entry() const override {
        // A row serves all heads of a layer, and in the worst case only one holds its token. In a
        // group each layer says what it holds, and waits for the others.
        const size_t noted = reuse_ > 1 ? 2 : 1;
        return key_bytes() + index(weights_.n_group) * sizeof(float) + noted * sizeof(int32_t);
    }

    void save(std::ostream& out) const override {
        put(out, n_written_);
        put(out, static_cast<int64_t>(more_follows_));
        put_all(out, noted_at_);
        for (size_t i = 0; i < rows_.size(); ++i) {
            put_all(out, rows_[i].positions);
            for (const auto& of : rows_[i].importance) put_all(out, of);
            put_all(out, rows_[i].keys);
            put_all(out, noted_[i]);
        }
    }

    /// Which rows there must be is known when held() is called, after this.
    void load(std::istream& in) override {
        const auto n_written = take<int64_t>(in);
        const auto more_follows = take<int64_t>(in);
        auto noted_at = take_all<int32_t>(in, n_noted_);
        std::vector<Rows> rows(rows_.size(), Rows(weights_.n_group));
        std::vector<std::vector<float>> noted(rows_.size());
        bool fits = n_written >= 0 && n_written <= std::numeric_limits<int32_t>::max() &&
                    noted_at.size() == noted_at_.size();
        for (size_t i = 0; i < rows.size(); ++i) {
            Rows& of = rows[i];
            of.positions = take_all<int32_t>(in, kMostRows);
            for (auto& group : of.importance) {
                group = take_all<float>(in, kMostRows);
                fits = fits && group.size() == of.positions.size();
            }
            of.keys = take_all<std::byte>(in, kMostRows * static_cast<int64_t>(key_bytes()));
            noted[i] = take_all<float>(in, std::ssize(noted_[i]));
            fits = fits && noted[i].size() == noted_[i].size() &&
                   of.keys.size() == of.positions.size() * key_bytes() &&
                   std::ranges::is_sorted(of.positions);
        }
        if (!fits) throw Error(ErrorCode::kCorrupt, "the saved memory's indexer does not fit");
        reset();
        n_written_ = n_written;
        more_follows_ = more_follows != 0;
        noted_at_ = std::move(noted_at);
        rows_ = std::move(rows);
        noted_ = std::move(noted);
    }

    /// How much each entry of a layer is needed, [KV head][entry]; -inf where nothing has looked.
    [[nodiscard]] Scores of(const LayerView& held) const {
        const Rows& of = rows_[index(leader(held.layer))];
        const std::vector<std::vector<float>> importance =
            mode_ == Mode::kWriting ? of_noted(leader(held.layer)) : of.importance;
        Scores scores;
        for (const HeadView& head : held.heads) {
            const size_t group = scores.size() * importance.size() / held.heads.size();
            const std::vector<float>& of_group = importance[group];
            const float bias = weights_.layers[index(leader(held.layer))].bias[group];
            std::vector<float>& s = scores.emplace_back();
            size_t row = 0;
            for (const int32_t p : head.positions) {
                while (row < of.positions.size() && of.positions[row] < p) ++row;
                const bool found = row < of.positions.size() && of.positions[row] == p;
                s.push_back(found ? of_group[row] + bias : kNothing);
            }
        }
        return scores;
    }

 private:
    static size_t index(int64_t i) { return static_cast<size_t>(i); }
    [[nodiscard]] size_t key_bytes() const {
        return index(weights_.d_head) * (is_f16_ ? sizeof(ggml_fp16_t) : sizeof(float));
    }
    static std::vector<int32_t> union_of(std::span<const int32_t> a, std::span<const int32_t> b) {
        std::vector<int32_t> joined;
        joined.reserve(a.size() + b.size());
        std::ranges::set_union(a, b, std::back_inserter(joined));
        return joined;
    }

    /// Rows that none of the layers scored by them holds any more go. Not before all of these have
    /// told what they hold: a row too many is harmless.
    void keep_of_groups() {
        for (int64_t first = 0; first < shape_.n_layer; ++first) {
            if (!leads(first)) continue;
            std::vector<int32_t> all;
            bool is_known = true;
            for (int64_t i = first; i < shape_.n_layer; ++i) {
                if (shape_.window(i) > 0 || leader(i) != first) continue;
                is_known = is_known && !still_held_[index(i)].empty();
                all = union_of(all, still_held_[index(i)]);
            }
            if (is_known) rows_[index(first)].keep(all, key_bytes());
        }
        for (auto& of : still_held_) of.clear();
    }

    [[nodiscard]] int64_t leader(int64_t layer) const {
        int64_t first = layer / reuse_ * reuse_;
        while (shape_.window(first) > 0) ++first;  // layers with a window have no indexer
        return first;
    }
    [[nodiscard]] bool leads(int64_t layer) const {
        return shape_.window(layer) == 0 && leader(layer) == layer;
    }

    static Tensor add(ggml_context* c, Tensor x, Tensor bias) {
        return bias == nullptr ? x : ggml_add(c, x, bias);
    }
    Tensor norm(ggml_context* c, Tensor x, const NormWeights& w) const {
        Tensor y = weights_.norm == NormKind::kRms ? ggml_rms_norm(c, x, weights_.epsilon)
                                                   : ggml_norm(c, x, weights_.epsilon);
        return add(c, ggml_mul(c, y, w.weight), w.bias);
    }

    [[nodiscard]] IndexKeys keys_of(int64_t layer) const {
        return {.rows = rows_[index(layer)].keys.data(), .is_f16 = is_f16_, .d = weights_.d_head};
    }

    /// Raises the importance of rows [begin, end) group by group. `queries` are of the first
    /// group's heads, which the others' follow; they are used up.
    void raise(int64_t layer, std::span<IndexQuery> queries, int64_t begin, int64_t end,
               std::span<std::vector<float>> importance) const {
        const int64_t n_head = weights_.n_head / weights_.n_group;
        for (std::vector<float>& to : importance) {
            raise_importance(keys_of(layer), queries, {n_head, weights_.activation}, begin, end,
                             to.data() + begin);
            for (IndexQuery& query : queries) {
                query.q += n_head * weights_.d_head;
                query.alpha += n_head;
            }
        }
    }

    /// What the noted queries, each seeing what stood before it, would keep: [group][row].
    [[nodiscard]] std::vector<std::vector<float>> of_noted(int64_t layer) const {
        const Rows& of = rows_[index(layer)];
        const int64_t n = std::min(n_written_, n_noted_);
        const int64_t width = weights_.n_head * weights_.d_head;
        std::vector<IndexQuery> queries;
        for (int64_t i = 0; i < n; ++i) {
            const float* at = noted_[index(layer)].data() + i * (width + weights_.n_head);
            const auto end = std::ranges::upper_bound(of.positions, noted_at_[index(i)]);
            queries.push_back(
                {.q = at,
                 .alpha = at + width,
                 .n_visible = weights_.is_causal ? end - of.positions.begin() : of.count()});
        }
        std::vector<std::vector<float>> importance(
            index(weights_.n_group), std::vector<float>(of.positions.size(), kNothing));
        raise(layer, queries, 0, of.count(), importance);
        return importance;
    }

    /// Stores the step's keys, and a written token's query. Sources: queries, keys, alpha.
    class StoreOp final : public CustomOp {
     public:
        StoreOp(IndexedTokens& of, int64_t layer) : of_(of), layer_(layer) {}
        void run(ggml_tensor* dst, int thread, int /*n_threads*/) noexcept override {
            if (thread != 0) return;
            const auto* q = static_cast<const float*>(dst->src[0]->data);
            const auto* k = static_cast<const float*>(dst->src[1]->data);
            const auto* alpha = static_cast<const float*>(dst->src[2]->data);
            const int64_t n = dst->src[1]->ne[1] * of_.weights_.d_head;
            std::byte* to = of_.rows_[index(layer_)].keys.data() +
                            index(of_.held_[index(layer_)]) * of_.key_bytes();
            if (of_.is_f16_) {
                ggml_fp32_to_fp16_row(k, reinterpret_cast<ggml_fp16_t*>(to), n);
            } else {
                std::memcpy(to, k, index(n) * sizeof(float));
            }
            if (of_.mode_ != Mode::kWriting) return;
            const int64_t width = of_.weights_.n_head * of_.weights_.d_head;
            const int64_t slot = (of_.n_written_ - 1) % of_.n_noted_;
            float* noted = of_.noted_[index(layer_)].data() + slot * (width + of_.weights_.n_head);
            std::copy_n(q, width, noted);
            std::copy_n(alpha, of_.weights_.n_head, noted + width);
        }

     private:
        IndexedTokens& of_;
        int64_t layer_;
    };

    /// Raises the importance of every row by the step's queries; by rows. Sources: queries, alpha.
    class RaiseOp final : public CustomOp {
     public:
        RaiseOp(IndexedTokens& of, int64_t layer) : of_(of), layer_(layer) {}
        void run(ggml_tensor* dst, int thread, int n_threads) noexcept override {
            if (of_.mode_ != Mode::kReading) return;
            constexpr int64_t kBlock = 16;  // queries at once, on the stack
            const auto* q = static_cast<const float*>(dst->src[0]->data);
            const auto* alpha = static_cast<const float*>(dst->src[1]->data);
            const IndexerWeights& w = of_.weights_;
            Rows& rows = of_.rows_[index(layer_)];
            const int64_t n = dst->src[1]->ne[1];
            const int64_t begin = rows.count() * thread / n_threads;
            const int64_t end = rows.count() * (thread + 1) / n_threads;
            for (int64_t first = 0; first < n; first += kBlock) {
                std::array<IndexQuery, kBlock> queries;
                const int64_t count = std::min(kBlock, n - first);
                for (int64_t i = 0; i < count; ++i) {
                    const int64_t at = first + i;
                    queries.at(index(i)) = {.q = q + at * w.n_head * w.d_head,
                                            .alpha = alpha + at * w.n_head,
                                            .n_visible = w.is_causal
                                                             ? of_.held_[index(layer_)] + at + 1
                                                             : rows.count()};
                }
                of_.raise(layer_, std::span(queries).first(index(count)), begin, end,
                          rows.importance);
            }
        }

     private:
        IndexedTokens& of_;
        int64_t layer_;
    };

    const IndexerWeights& weights_;
    MemoryShape shape_;
    bool is_f16_;
    int64_t reuse_;
    int64_t n_noted_;                               // queries between two cuts while writing
    std::vector<Rows> rows_;                        // [layer]
    std::vector<std::vector<int32_t>> still_held_;  // [layer], between a cut and begin(), if shared
    std::vector<std::vector<float>> noted_;  // [layer]: [n_noted][H_i * d_i + H_i], as a ring
    std::vector<int32_t> noted_at_;          // [n_noted]: their positions
    int64_t n_written_ = 0;                  // queries ever noted since the last reading
    int64_t before_ = 0;                     // the same before the running step
    std::vector<int64_t> held_;              // [layer]: rows before the running step
    int64_t planned_at_ = -1;                // positions seen when it was planned
    Mode mode_ = Mode::kReading;             // of the running step
    bool more_follows_ = false;              // the running step is not the prompt's last
    bool follows_prefill_ = false;           // nor was the one before
};

class Indexer final : public EvictionPolicy {
 public:
    explicit Indexer(const PartInputs& in)
        : tokens_(in.observers.add<IndexedTokens>(in)),
          n_sink_(in.learned->n_sink()),
          n_recent_(in.options.integer("recent", in.learned->indexer()->n_recent, 0, 1 << 20)) {}

    [[nodiscard]] int64_t n_sink() const override { return n_sink_; }
    [[nodiscard]] int64_t n_recent() const override { return n_recent_; }
    [[nodiscard]] Scores score(const LayerView& held, const Observers& noted) const override {
        return noted[tokens_].of(held);
    }

 private:
    Noted<IndexedTokens> tokens_;
    int64_t n_sink_, n_recent_;
};

}  // namespace

MadePolicy make_indexer(const PartInputs& in) { return std::make_unique<Indexer>(in); }

}  // namespace palimpsest
