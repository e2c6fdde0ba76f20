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

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "memory/binary_stream.h"
#include "memory/eviction_weights.h"
#include "memory/policies.h"

namespace palimpsest {

namespace {

constexpr int64_t kMostRows = int64_t{1} << 24;
constexpr float kHorizon = 16384;        // positions over which a retention of -1 takes 1 away
constexpr float kLaterIsBetter = 1e-6F;  // a position: parts what would be equal

const GateWeights& weights_of(const PartInputs& in) {
    require(in.learned != nullptr && in.learned->gate() != nullptr,
            "policy 'gate' needs a trained gate",
            in.learned == nullptr ? cat("; name its file with --sidecar, or train one with "
                                        "'palimpsest train gate'")
                                  : cat("; the sidecar '", in.learned->path(), "' holds none"));
    return *in.learned->gate();
}

class Gate final : public EvictionPolicy {
 public:
    explicit Gate(const PartInputs& in)
        : weights_(weights_of(in)),
          shape_(in.shape),
          n_sink_(in.learned->n_sink()),
          fades_(std::ranges::any_of(weights_.layers,
                                     [](const GateLayer& of) { return of.retention != nullptr; })),
          scores_(static_cast<size_t>(shape_.n_layer * shape_.n_head_kv)) {}

    [[nodiscard]] int64_t n_sink() const override { return n_sink_; }

    void begin(const Step& step, int64_t seen) override {
        // A step planned twice adds its entries once.
        if (seen != planned_at_) {
            held_.clear();
            for (const auto& of : scores_) held_.push_back(std::ssize(of));
        }
        planned_at_ = seen;
        for (size_t i = 0; i < scores_.size(); ++i) {
            if (shape_.window(static_cast<int64_t>(i) / shape_.n_head_kv) > 0) continue;
            const auto n = static_cast<size_t>(held_[i] + step.n * width());
            scores_[i].reserve(n);  // to the entry: it is counted
            scores_[i].resize(n);
        }
    }

    void observe(Graph& g, const AttentionInputs& in, EntrySource& /*source*/,
                 AttentionScratch& /*scratch*/) override {
        ggml_context* c = g.ctx();
        const GateLayer& w = weights_.layers[static_cast<size_t>(in.layer)];
        Tensor x = norm(c, in.hidden, w.in_norm);
        x = ggml_gelu(c, norm(c, ggml_mul_mat(c, w.in, x), w.mid_norm));
        Tensor magnitude = add(c, ggml_mul_mat(c, w.magnitude, x), w.magnitude_bias);
        std::vector<Tensor> rated = {magnitude};
        if (w.retention != nullptr) {
            rated.push_back(add(c, ggml_mul_mat(c, w.retention, x), w.retention_bias));
        }
        g.keep(g.custom({1, 1, 1, 1}, rated, std::make_unique<StoreOp>(*this, in.layer)));
    }

    [[nodiscard]] Scores score(const LayerView& held) const override {
        Scores scores;
        for (size_t h = 0; h < held.heads.size(); ++h) {
            const std::vector<float>& of = scores_[index(held.layer, static_cast<int64_t>(h))];
            std::vector<float>& s = scores.emplace_back();
            size_t at = 0;
            for (const int32_t p : held.heads[h].positions) {
                float x = of[at] + kLaterIsBetter * static_cast<float>(p);
                if (fades_) x += of[at + 1] * static_cast<float>(held.n_seen - p) / kHorizon;
                s.push_back(x);
                at += static_cast<size_t>(width());
            }
        }
        return scores;
    }

    void keep(int64_t layer, int64_t head, std::span<const int32_t> kept) override {
        std::vector<float>& of = scores_[index(layer, head)];
        const auto n = static_cast<size_t>(width());
        for (size_t i = 0; i < kept.size(); ++i) {
            std::copy_n(of.begin() + kept[i] * width(), n,
                        of.begin() + static_cast<int64_t>(i) * width());
        }
        of.resize(kept.size() * n);
    }

    void reset() override {
        for (auto& of : scores_) of.clear();
        planned_at_ = -1;
    }
    [[nodiscard]] size_t bytes() const override {
        size_t n = 0;
        for (const auto& of : scores_) n += of.capacity() * sizeof(float);
        return n;
    }
    [[nodiscard]] size_t bytes_per_entry() const override {
        return static_cast<size_t>(width()) * sizeof(float);
    }
    void save(std::ostream& out) const override {
        for (const auto& of : scores_) put_all(out, of);
    }
    void load(std::istream& in) override {
        std::vector<std::vector<float>> scores(scores_.size());
        for (auto& of : scores) of = take_all<float>(in, width() * kMostRows);
        reset();
        scores_ = std::move(scores);
    }

 private:
    /// Numbers kept of an entry: its score, and the rate at which it fades.
    [[nodiscard]] int64_t width() const { return fades_ ? 2 : 1; }
    [[nodiscard]] size_t index(int64_t layer, int64_t head) const {
        return static_cast<size_t>(layer * shape_.n_head_kv + head);
    }
    static Tensor add(ggml_context* c, Tensor x, Tensor bias) {
        return bias == nullptr ? x : ggml_add(c, x, bias);
    }
    Tensor norm(ggml_context* c, Tensor x, const NormWeights& w) const {
        return add(c, ggml_mul(c, ggml_norm(c, x, weights_.epsilon), w.weight), w.bias);
    }

    /// Sources: magnitude [n_head_kv, n] and, where scores fade, retention alike.
    class StoreOp final : public CustomOp {
     public:
        StoreOp(Gate& of, int64_t layer) : of_(of), layer_(layer) {}
        void run(ggml_tensor* dst, int thread, int /*n_threads*/) noexcept override {
            if (thread != 0) return;
            const int64_t n = dst->src[0]->ne[1];
            const int64_t n_heads = of_.shape_.n_head_kv;
            const auto* magnitude = static_cast<const float*>(dst->src[0]->data);
            const auto* retention =
                dst->src[1] == nullptr ? nullptr : static_cast<const float*>(dst->src[1]->data);
            for (int64_t h = 0; h < n_heads; ++h) {
                const size_t which = of_.index(layer_, h);
                float* to = of_.scores_[which].data() + of_.held_[which];
                for (int64_t i = 0; i < n; ++i) {
                    *to++ = magnitude[i * n_heads + h];
                    if (!of_.fades_) continue;
                    *to++ = retention == nullptr ? 0 : -softplus(retention[i * n_heads + h]);
                }
            }
        }

     private:
        static float softplus(float x) {
            return std::max(x, 0.0F) + std::log1p(std::exp(-std::abs(x)));
        }
        Gate& of_;
        int64_t layer_;
    };

    const GateWeights& weights_;
    MemoryShape shape_;
    int64_t n_sink_;
    bool fades_;
    std::vector<std::vector<float>> scores_;  // [layer][KV head]: width() numbers an entry
    std::vector<int64_t> held_;               // how many before the running step
    int64_t planned_at_ = -1;                 // positions seen when it was planned
};

}  // namespace

MadePolicy make_gate(const PartInputs& in) { return std::make_unique<Gate>(in); }

}  // namespace palimpsest
