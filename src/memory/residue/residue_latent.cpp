// What goes is folded into a state of fixed size, which answers beside attention.
//
// IndexMem (arXiv:2605.25475, section 3.2), in the form its released code has (one state a KV head,
// one trained projection a layer):
//
//   write   M <- decay * M + sum over what goes of phi(k) v^T,   b <- decay * b + sum of phi(k)^2
//   read    m(q) = phi(q)^T M / max(phi(q)^2 . b, floor),        answer = attention + gate * m(q)
//
// Keys and queries are those after RoPE. The decay applies once a cut. Ours: an entry or an answer
// that is not finite counts as none, and with `clip` (or where the weights were trained with it)
// none is longer than the longest value written to the head: the denominator is a product of small
// numbers, and a mean of values could not be longer either. A state cannot turn with positions:
// where survivors are renumbered, what it holds stays where it was.

#include "memory/residue/residue_latent.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "memory/attention/query_op.h"
#include "memory/binary_stream.h"
#include "memory/kernels/scoring_kernel.h"
#include "memory/policy/eviction_weights.h"
#include "memory/residue/residues.h"

namespace palimpsest {

namespace {

/// Of one KV head.
struct State {
    std::vector<float> m;  // [n_feature][d_head]
    std::vector<float> b;  // [n_feature]
    float longest = 0;     // of the values written; 0: nothing was written
};

float dot(std::span<const float> a, const float* b) {
    float sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
}

const LatentWeights& weights_of(const PartInputs& in) {
    require(in.learned != nullptr && in.learned->latent() != nullptr,
            "residue 'latent' needs a trained memory",
            in.learned == nullptr ? cat("; name its file with --sidecar, or train one with "
                                        "'palimpsest train latent'")
                                  : cat("; the sidecar '", in.learned->path(), "' holds none"));
    return *in.learned->latent();
}

class Latent final : public Residue {
 public:
    Latent(const PartInputs& in, const LatentWeights& weights)
        : weights_(weights),
          shape_(in.shape),
          clips_(in.options.integer("clip", weights_.clips ? 1 : 0, 0, 1) == 1),
          states_(static_cast<size_t>(shape_.n_layer * shape_.n_head_kv)) {
        for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
            if (shape_.window(layer) > 0) continue;
            for (int64_t h = 0; h < shape_.n_head_kv; ++h) {
                State& of = state_of(layer, h);
                of.m.resize(static_cast<size_t>(weights_.n_feature * shape_.d_head));
                of.b.resize(static_cast<size_t>(weights_.n_feature));
            }
        }
    }

    void absorb(const Eviction& e) override {
        State& of = state_of(e.layer, e.head);
        const float decay = weights_.layers[static_cast<size_t>(e.layer)].decay;
        for (float& x : of.m) x *= decay;
        for (float& x : of.b) x *= decay;
        const auto d = static_cast<size_t>(shape_.d_head);
        EntryRows values = e.held.rows;
        values.k = values.v;
        std::vector<float> k(d);
        std::vector<float> v(d);
        std::vector<float> f(static_cast<size_t>(weights_.n_feature));
        for (const int32_t slot : e.gone) {
            read_keys(e.held.rows, slot, 1, k.data());
            read_keys(values, slot, 1, v.data());
            features(e.layer, k.data(), f);
            const float length = std::sqrt(dot(v, v.data()));
            if (!std::isfinite(length) || !all_finite(f)) continue;
            for (size_t j = 0; j < f.size(); ++j) {
                float* row = of.m.data() + j * d;
                for (size_t c = 0; c < d; ++c) row[c] += f[j] * v[c];
                of.b[j] += f[j] * f[j];
            }
            of.longest = std::max(of.longest, length);
        }
    }

    Tensor join(Graph& g, const AttentionInputs& in, Tensor attended,
                AttentionScratch& /*scratch*/) override {
        const auto change = [this, layer = in.layer](int64_t head, int64_t /*token*/,
                                                     const float* q, float* out,
                                                     std::span<float> memory) {
            const int64_t kv = head / shape_.group();
            const auto state = static_cast<size_t>(layer * shape_.n_head_kv + kv);
            if (states_[state].longest > 0) add_answer(layer, kv, q, out, memory);
        };
        return change_answers(g, shape_, in, attended,
                              {.n_scratch = shape_.d_head, .change = change});
    }

    [[nodiscard]] bool is_readable() const override { return true; }

    void reset() override {
        for (State& of : states_) {
            std::ranges::fill(of.m, 0.0F);
            std::ranges::fill(of.b, 0.0F);
            of.longest = 0;
        }
    }

    [[nodiscard]] size_t bytes() const override {
        size_t n = 0;
        for (const State& of : states_) {
            n += (of.m.size() + of.b.size()) * sizeof(float) + sizeof of.longest;
        }
        return n;
    }

    [[nodiscard]] std::vector<NamedState> state(int64_t layer, int64_t head) const override {
        const State& of = states_[static_cast<size_t>(layer * shape_.n_head_kv + head)];
        return {{"M", {weights_.n_feature, shape_.d_head}, of.m},
                {"b", {weights_.n_feature}, of.b}};
    }

    void save(std::ostream& out) const override {
        for (const State& of : states_) {
            put_all(out, of.m);
            put_all(out, of.b);
            put(out, of.longest);
        }
    }
    void load(std::istream& in) override {
        std::vector<State> states(states_.size());
        for (size_t i = 0; i < states.size(); ++i) {
            states[i].m = take_all<float>(in, std::ssize(states_[i].m));
            states[i].b = take_all<float>(in, std::ssize(states_[i].b));
            states[i].longest = take<float>(in);
            const bool counts = all_finite(states[i].m) && all_finite(states[i].b) &&
                                std::isfinite(states[i].longest) && states[i].longest >= 0;
            if (states[i].m.size() != states_[i].m.size() ||
                states[i].b.size() != states_[i].b.size() || !counts) {
                throw Error(ErrorCode::kCorrupt, "the saved memory's latent state does not fit");
            }
        }
        states_ = std::move(states);
    }

 private:
    State& state_of(int64_t layer, int64_t head) {
        return states_[static_cast<size_t>(layer * shape_.n_head_kv + head)];
    }

    /// f = phi x.
    void features(int64_t layer, const float* x, std::vector<float>& f) const {
        const float* phi = weights_.layers[static_cast<size_t>(layer)].phi.data();
        std::ranges::fill(f, 0.0F);
        for (int64_t c = 0; c < shape_.d_head; ++c) {
            for (size_t j = 0; j < f.size(); ++j) {
                f[j] += x[c] * phi[static_cast<size_t>(c) * f.size() + j];
            }
        }
    }

    /// Adds the state's answer to a query to `out`.
    void add_answer(int64_t layer, int64_t head, const float* q, float* out,
                    std::span<float> memory) const {
        const State& of = states_[static_cast<size_t>(layer * shape_.n_head_kv + head)];
        const auto d = static_cast<size_t>(shape_.d_head);
        std::vector<float> f(static_cast<size_t>(weights_.n_feature));
        features(layer, q, f);
        std::ranges::fill(memory, 0.0F);
        float denominator = 0;
        for (size_t j = 0; j < f.size(); ++j) {
            denominator += f[j] * f[j] * of.b[j];
            const float* row = of.m.data() + j * d;
            for (size_t c = 0; c < d; ++c) memory[c] += f[j] * row[c];
        }
        float factor = 1.0F / std::max(denominator, weights_.floor);
        const float length = std::sqrt(dot(memory, memory.data())) * factor;
        if (!std::isfinite(length)) return;
        if (clips_ && length > of.longest) factor *= of.longest / length;
        factor *= weights_.layers[static_cast<size_t>(layer)].gate;
        for (size_t c = 0; c < d; ++c) out[c] += factor * memory[c];
    }

    const LatentWeights& weights_;
    MemoryShape shape_;
    bool clips_;
    std::vector<State> states_;  // [layer][KV head]
};

}  // namespace

std::unique_ptr<Residue> make_latent(const PartInputs& in) {
    const LatentWeights& weights = weights_of(in);
    if (weights.form == LatentForm::kSoftmax) return make_softmax_latent(in.shape, weights);
    return std::make_unique<Latent>(in, weights);
}

}  // namespace palimpsest
