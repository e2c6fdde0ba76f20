// Keeps what a trained gate rated highest when it came in.
//
// The successor of IndexMem ("The Gating Mechanism of KV Cache Eviction"): a small network looks at
// a token's hidden state once and gives every KV head a number; no query is needed, and a later cut
// costs a sort. Where the weights have a retention part, scores fade with age, at a rate of the
// entry's own.
//
// Ours: what the weights are trained for (docs/training.md). The successor learns through the
// whole model's loss; ours predict the logarithm of the most attention that repeating the input
// pays to the entry, the measure of `kvzip`. So scores of different heads and layers compare, and
// heads share the budget by them (allocator `global`).
//
// While writing, a score is due only when something must go. Tokens wait, and some are rated
// together: their weights are then read once for all of them.

#include <algorithm>
#include <array>

#include "core/error.h"
#include "memory/binary_stream.h"
#include "memory/policy/eviction_weights.h"
#include "memory/policy/gate_kernel.h"
#include "memory/policy/policies.h"

namespace palimpsest {

namespace {

constexpr int64_t kMostRows = int64_t{1} << 24;
constexpr float kHorizon = 16384;        // positions over which a retention of -1 takes 1 away
constexpr float kLaterIsBetter = 1e-6F;  // a position: parts what would be equal
constexpr int64_t kMostWaiting = 8;      // tokens that are rated together while writing
constexpr int64_t kRowsAtOnce = 32;      // while reading

const GateWeights& weights_of(const PartInputs& in) {
    require(in.learned != nullptr && in.learned->gate() != nullptr,
            "policy 'gate' needs a trained gate",
            in.learned == nullptr ? cat("; name its file with --sidecar, or train one with "
                                        "'palimpsest train gate'")
                                  : cat("; the sidecar '", in.learned->path(), "' holds none"));
    return *in.learned->gate();
}

/// What the gate said of every entry when it came in.
class RatedEntries final : public Observer {
 public:
    explicit RatedEntries(const PartInputs& in)
        : weights_(weights_of(in)),
          shape_(in.shape),
          fades_(std::ranges::any_of(
              weights_.layers, [](const GateLayer& of) { return !of.retention.weight.empty(); })),
          layers_(static_cast<size_t>(shape_.n_layer)) {
        for (int64_t i = 0; i < shape_.n_layer; ++i) {
            if (shape_.window(i) > 0) continue;
            last_ = i;
            layer(i).heads.resize(static_cast<size_t>(shape_.n_head_kv));
            layer(i).rows.resize(static_cast<size_t>(kMostWaiting * shape_.n_embd));
        }
    }

    [[nodiscard]] std::unique_ptr<Observer> clone() const override {
        return std::make_unique<RatedEntries>(*this);
    }

    void begin(const Step& step, int64_t seen) override {
        const bool is_new = seen != planned_at_;  // a step planned twice adds its entries once
        planned_at_ = seen;
        for (Layer& of : layers_) {
            if (of.heads.empty()) continue;
            if (is_new) {
                of.n_waited = of.n_waiting;
                of.held.clear();
                for (const auto& scores : of.heads) of.held.push_back(std::ssize(scores));
            }
            of.n_waiting = step.n == 1 && of.n_waited + 1 < kMostWaiting ? of.n_waited + 1 : 0;
            for (size_t h = 0; h < of.heads.size(); ++h) {
                const auto n = static_cast<size_t>(of.held[h] + step.n * width());
                of.heads[h].reserve(n);  // to the entry: it is counted
                of.heads[h].resize(n);
            }
        }
    }

    void observe(Graph& g, const AttentionInputs& in, EntrySource& /*source*/,
                 AttentionScratch& /*scratch*/) override {
        const std::array<Tensor, 1> hidden = {in.hidden};
        g.keep(g.custom({1, 1, 1, 1}, hidden, std::make_unique<RateOp>(*this, in.layer)));
    }

    void keep(int64_t i, int64_t head, std::span<const int32_t> kept) override {
        Layer& in = layer(i);
        rate_waiting(i, in.n_waiting, in.heads);
        in.n_waiting = 0;
        std::vector<float>& of = in.heads[static_cast<size_t>(head)];
        const auto n = static_cast<size_t>(width());
        for (size_t e = 0; e < kept.size(); ++e) {
            std::copy_n(of.begin() + kept[e] * width(), n,
                        of.begin() + static_cast<int64_t>(e) * width());
        }
        of.resize(kept.size() * n);
    }

    /// Scores are found by counting entries: those that were loaded must be as many.
    void held(int64_t i, std::span<const std::span<const int32_t>> heads) override {
        const Layer& in = layer(i);
        for (size_t h = 0; h < heads.size(); ++h) {
            check_notes("gate", std::ssize(in.heads[h]), std::ssize(heads[h]) * width());
        }
    }

    void reset() override {
        for (Layer& of : layers_) {
            for (auto& scores : of.heads) scores.clear();
            of.n_waited = 0;
            of.n_waiting = 0;
        }
        planned_at_ = -1;
    }
    [[nodiscard]] size_t bytes() const override {
        size_t n = 0;
        for (const Layer& of : layers_) {
            n += of.rows.size() * sizeof(ggml_fp16_t);
            for (const auto& scores : of.heads) n += scores.capacity() * sizeof(float);
        }
        return n;
    }
    [[nodiscard]] size_t bytes_per_entry() const override {
        return static_cast<size_t>(width()) * sizeof(float);
    }
    void save(std::ostream& out) const override {
        for (int64_t i = 0; i < shape_.n_layer; ++i) {
            std::vector<std::vector<float>> rated = layer(i).heads;
            rate_waiting(i, layer(i).n_waiting, rated);
            rated.resize(static_cast<size_t>(shape_.n_head_kv));
            for (const auto& of : rated) put_all(out, of);
        }
    }
    /// How many scores a head needs is known when held() is called, after this.
    void load(std::istream& in) override {
        std::vector<std::vector<std::vector<float>>> all;
        for (const Layer& of : layers_) {
            auto& heads = all.emplace_back();
            for (int64_t h = 0; h < shape_.n_head_kv; ++h) {
                heads.push_back(take_all<float>(in, width() * kMostRows));
            }
            if (of.heads.empty()) heads.clear();
        }
        reset();
        for (size_t i = 0; i < all.size(); ++i) layers_[i].heads = std::move(all[i]);
    }

    /// What the entries of a layer are worth now, [KV head][entry].
    [[nodiscard]] Scores of(const LayerView& held) const {
        const Layer& of = layer(held.layer);
        std::vector<std::vector<float>> rated = of.heads;
        rate_waiting(held.layer, of.n_waiting, rated);
        Scores scores;
        for (size_t h = 0; h < held.heads.size(); ++h) {
            std::vector<float>& s = scores.emplace_back();
            const float* at = rated[h].data();
            for (const int32_t p : held.heads[h].positions) {
                float x = at[0] + kLaterIsBetter * static_cast<float>(p);
                if (fades_) x += at[1] * static_cast<float>(held.n_seen - p) / kHorizon;
                s.push_back(x);
                at += width();
            }
        }
        return scores;
    }

 private:
    /// What is known of a layer's entries; nothing where the layer evicts none.
    struct Layer {
        std::vector<std::vector<float>> heads;  // [KV head]: width() numbers an entry
        std::vector<int64_t> held;              // [KV head]: how many before the running step
        std::vector<ggml_fp16_t> rows;  // [kMostWaiting][n_embd]: normalised, of the last entries
        int64_t n_waited = 0;           // before the running step
        int64_t n_waiting = 0;          // after it
    };

    /// Numbers kept of an entry: its score, and the rate at which it fades.
    [[nodiscard]] int64_t width() const { return fades_ ? 2 : 1; }
    [[nodiscard]] Layer& layer(int64_t i) { return layers_[static_cast<size_t>(i)]; }
    [[nodiscard]] const Layer& layer(int64_t i) const { return layers_[static_cast<size_t>(i)]; }

    /// Rates the first `n` waiting rows, behind whose entries `heads` have `n_behind` more.
    void rate_waiting(int64_t i, int64_t n, std::vector<std::vector<float>>& heads,
                      int64_t n_behind = 0) const {
        if (n == 0) return;
        std::vector<float> rows(static_cast<size_t>(n * shape_.n_embd));
        ggml_fp16_to_fp32_row(layer(i).rows.data(), rows.data(), std::ssize(rows));
        rate(i, rows, heads,
             [&](size_t h) { return std::ssize(heads[h]) - (n + n_behind) * width(); });
    }

    /// Puts what normalised rows are worth into `heads`, each from `begin(head)` on.
    template <class Begin>
    void rate(int64_t i, std::span<const float> rows, std::vector<std::vector<float>>& heads,
              const Begin& begin) const {
        const GateRatings rated =
            rate_by_gate(weights_, weights_.layers[static_cast<size_t>(i)], rows);
        for (size_t h = 0; h < heads.size(); ++h) {
            float* to = heads[h].data() + begin(h);
            for (size_t at = h; at < rated.magnitude.size(); at += heads.size()) {
                *to++ = rated.magnitude[at];
                if (fades_) *to++ = rated.retention.empty() ? 0 : rated.retention[at];
            }
        }
    }

    void normalise(int64_t i, const float* hidden, float* to) const {
        normalise_for_gate(weights_, weights_.layers[static_cast<size_t>(i)], hidden, to);
    }

    /// Source: hidden states [n_embd, n].
    class RateOp final : public CustomOp {
     public:
        RateOp(RatedEntries& of, int64_t layer) : of_(of), layer_(layer) {}

        void run(ggml_tensor* dst, int thread, int n_threads) noexcept override {
            const ggml_tensor* hidden = dst->src[0];
            if (hidden->ne[1] > 1) {
                Layer& to = of_.layer(layer_);
                if (thread == 0) of_.rate_waiting(layer_, to.n_waited, to.heads, hidden->ne[1]);
                for (int64_t first = thread * kRowsAtOnce; first < hidden->ne[1];
                     first += n_threads * kRowsAtOnce) {
                    rate_rows(hidden, first, std::min(kRowsAtOnce, hidden->ne[1] - first));
                }
                return;
            }
            if (thread == 0) let_wait(hidden);
            // All layers' rows are there when the last one's are.
            if (layer_ == of_.last_) rate_full(thread, n_threads);
        }

     private:
        static const float* row(const ggml_tensor* hidden, int64_t i) {
            return reinterpret_cast<const float*>(static_cast<const char*>(hidden->data) +
                                                  static_cast<size_t>(i) * hidden->nb[1]);
        }

        void rate_rows(const ggml_tensor* hidden, int64_t first, int64_t n) const {
            const int64_t n_embd = of_.shape_.n_embd;
            std::vector<float> rows(static_cast<size_t>(n * n_embd));
            for (int64_t i = 0; i < n; ++i) {
                of_.normalise(layer_, row(hidden, first + i), rows.data() + i * n_embd);
            }
            Layer& to = of_.layer(layer_);
            of_.rate(layer_, rows, to.heads,
                     [&](size_t h) { return to.held[h] + first * of_.width(); });
        }

        void let_wait(const ggml_tensor* hidden) const {
            const int64_t n_embd = of_.shape_.n_embd;
            std::vector<float> normalised(static_cast<size_t>(n_embd));
            of_.normalise(layer_, row(hidden, 0), normalised.data());
            Layer& to = of_.layer(layer_);
            ggml_fp32_to_fp16_row(normalised.data(), to.rows.data() + to.n_waited * n_embd, n_embd);
        }

        /// The last layer's row is there for the first thread alone.
        void rate_full(int thread, int n_threads) const {
            for (int64_t i = of_.last_ - thread; i >= 0; i -= n_threads) {
                Layer& to = of_.layer(i);
                if (to.heads.empty() || to.n_waiting > 0) continue;
                of_.rate_waiting(i, kMostWaiting, to.heads);
            }
        }

        RatedEntries& of_;
        int64_t layer_;
    };

    const GateWeights& weights_;
    MemoryShape shape_;
    bool fades_;
    std::vector<Layer> layers_;
    int64_t last_ = -1;        // layer that evicts
    int64_t planned_at_ = -1;  // positions seen when the running step was planned
};

class Gate final : public EvictionPolicy {
 public:
    explicit Gate(const PartInputs& in)
        : entries_(in.observers.add<RatedEntries>(in)), n_sink_(in.learned->n_sink()) {}

    [[nodiscard]] int64_t n_sink() const override { return n_sink_; }
    [[nodiscard]] Scores score(const LayerView& held, const Observers& noted) const override {
        return noted[entries_].of(held);
    }

 private:
    Noted<RatedEntries> entries_;
    int64_t n_sink_;
};

}  // namespace

MadePolicy make_gate(const PartInputs& in) { return std::make_unique<Gate>(in); }

}  // namespace palimpsest
