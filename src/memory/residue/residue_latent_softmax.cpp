// What goes is folded into a state of fixed size, which stays in the softmax.
//
// The state and its size are those of IndexMem's latent memory (arXiv:2605.25475, section 3.2), and
// so is the idea that what is written and how it is read are learnt. Ours is how it is read. Added
// to attention's answer, a memory does not know how much of the attention went with what was
// evicted, and can only be right in the mean. Here it is a part of the softmax instead, as
// everything else in this project that answers beside attention:
//
//   write   a = softmax over features of (W_k k + c_k),   M += a v^T,   b += a
//   read    logit of feature f = (W_q q + c_q)_f + ln b_f,   its value M_f / b_f
//
// Each evicted entry is shared out over the features, which thereby are a few mean entries; b says
// for how many each stands, so that the state needs no decay and no gate. Entries and logits that
// are not finite count as none. Keys and queries are those after RoPE, and each KV head has maps of
// its own. A state cannot turn with positions: where survivors are renumbered, what it holds stays
// where it was.

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "memory/attention/attention.h"
#include "memory/attention/query_op.h"
#include "memory/binary_stream.h"
#include "memory/kernels/attention_state.h"
#include "memory/kernels/scoring_kernel.h"
#include "memory/residue/residue_latent.h"

namespace palimpsest {

namespace {

/// Of one KV head.
struct State {
    std::vector<float> m;  // [n_feature][d_head]
    std::vector<float> b;  // [n_feature]: entries each feature stands for
    bool is_written = false;
};

/// One KV head's map of all of them.
struct Map {
    std::span<const float> weight;  // [d_head][n_feature]
    std::span<const float> bias;    // [n_feature]

    Map(const HeadMap& all, int64_t head, size_t n_feature, size_t d_head)
        : weight(std::span(all.weight)
                     .subspan(static_cast<size_t>(head) * n_feature * d_head, n_feature * d_head)),
          bias(std::span(all.bias).subspan(static_cast<size_t>(head) * n_feature, n_feature)) {}

    void apply(std::span<const float> x, std::span<float> f) const {
        std::ranges::copy(bias, f.begin());
        const float* row = weight.data();
        for (const float channel : x) {
            for (size_t j = 0; j < f.size(); ++j) f[j] += channel * row[j];
            row += f.size();
        }
    }
};

class SoftmaxLatent final : public Residue {
 public:
    SoftmaxLatent(const MemoryShape& shape, const LatentWeights& weights)
        : shape_(shape),
          weights_(weights),
          states_(static_cast<size_t>(shape.n_layer * shape.n_head_kv)) {
        for (int64_t layer = 0; layer < shape.n_layer; ++layer) {
            if (shape.window(layer) > 0) continue;
            for (int64_t h = 0; h < shape.n_head_kv; ++h) {
                State& of = states_[place(layer, h)];
                of.m.resize(static_cast<size_t>(n_feature() * shape.d_head));
                of.b.resize(static_cast<size_t>(n_feature()));
            }
        }
    }

    void absorb(const Eviction& e) override {
        State& of = states_[place(e.layer, e.head)];
        const Map map = map_of(layer_of(e.layer).key, e.head);
        const auto d = static_cast<size_t>(shape_.d_head);
        EntryRows values = e.held.rows;
        values.k = values.v;
        std::vector<float> k(d);
        std::vector<float> v(d);
        std::vector<float> a(of.b.size());
        for (const int32_t slot : e.gone) {
            read_keys(e.held.rows, slot, 1, k.data());
            read_keys(values, slot, 1, v.data());
            map.apply(k, a);
            if (!all_finite(a) || !all_finite(v)) continue;
            softmax_logits(a);
            for (size_t j = 0; j < a.size(); ++j) {
                of.b[j] += a[j];
                float* row = of.m.data() + j * d;
                for (size_t c = 0; c < d; ++c) row[c] += a[j] * v[c];
            }
            of.is_written = true;
        }
    }

    Tensor join(Graph& g, const AttentionInputs& in, Tensor attended,
                AttentionScratch& scratch) override {
        const auto change = [this, layer = in.layer, &scratch](int64_t head, int64_t token,
                                                               const float* q, float* out,
                                                               std::span<float> logits) {
            const int64_t head_kv = head / shape_.group();
            const State& of = states_[place(layer, head_kv)];
            if (!of.is_written) return;
            const auto d = static_cast<size_t>(shape_.d_head);
            map_of(layer_of(layer).query, head_kv).apply({q, d}, logits);
            join_state(of, *scratch.lse(head, token), {out, d}, logits);
        };
        return change_answers(g, shape_, in, attended,
                              {.n_scratch = n_feature(), .change = change});
    }

    [[nodiscard]] bool is_readable() const override { return true; }

    void reset() override {
        for (State& of : states_) {
            std::ranges::fill(of.m, 0.0F);
            std::ranges::fill(of.b, 0.0F);
            of.is_written = false;
        }
    }

    [[nodiscard]] size_t bytes() const override {
        size_t n = 0;
        for (const State& of : states_) n += (of.m.size() + of.b.size()) * sizeof(float);
        return n;
    }

    [[nodiscard]] std::vector<NamedState> state(int64_t layer, int64_t head) const override {
        const State& of = states_[place(layer, head)];
        return {{"M", {n_feature(), shape_.d_head}, of.m}, {"b", {n_feature()}, of.b}};
    }

    void save(std::ostream& out) const override {
        for (const State& of : states_) {
            put_all(out, of.m);
            put_all(out, of.b);
        }
    }
    void load(std::istream& in) override {
        std::vector<State> states(states_.size());
        for (size_t i = 0; i < states.size(); ++i) {
            State& of = states[i];
            of.m = take_all<float>(in, std::ssize(states_[i].m));
            of.b = take_all<float>(in, std::ssize(states_[i].b));
            const bool counts = all_finite(of.m) && all_finite(of.b) &&
                                std::ranges::all_of(of.b, [](float x) { return x >= 0; });
            if (of.m.size() != states_[i].m.size() || of.b.size() != states_[i].b.size() ||
                !counts) {
                throw Error(ErrorCode::kCorrupt, "the saved memory's latent state does not fit");
            }
            of.is_written = std::ranges::any_of(of.b, [](float x) { return x > 0; });
        }
        states_ = std::move(states);
    }

 private:
    [[nodiscard]] int64_t n_feature() const { return weights_.n_feature; }
    [[nodiscard]] const LatentLayer& layer_of(int64_t layer) const {
        return weights_.layers[static_cast<size_t>(layer)];
    }
    [[nodiscard]] Map map_of(const HeadMap& all, int64_t head_kv) const {
        return {all, head_kv, static_cast<size_t>(n_feature()), static_cast<size_t>(shape_.d_head)};
    }
    [[nodiscard]] size_t place(int64_t layer, int64_t head) const {
        return static_cast<size_t>(layer * shape_.n_head_kv + head);
    }

    /// Joins attention over the entries, of which the log of the sum is known, with the features;
    /// that log is of everything together afterwards. `logits`: what the query made of them.
    static void join_state(const State& of, float& lse, std::span<float> out,
                           std::span<float> logits) {
        for (size_t j = 0; j < logits.size(); ++j) {
            logits[j] += std::log(of.b[j]);
            if (!std::isfinite(logits[j])) logits[j] = kEmptyState;  // nothing was written, or NaN
        }
        lse = join_logits(out, lse, logits);
        for (size_t j = 0; j < logits.size(); ++j) {
            if (!(logits[j] > 0)) continue;
            const float weight = logits[j] / of.b[j];
            const float* row = of.m.data() + j * out.size();
            for (size_t c = 0; c < out.size(); ++c) out[c] += weight * row[c];
        }
    }

    MemoryShape shape_;
    const LatentWeights& weights_;  // of the model's sidecar, shared by all sequences
    std::vector<State> states_;     // [layer][KV head]
};

}  // namespace

std::unique_ptr<Residue> make_softmax_latent(const MemoryShape& shape,
                                             const LatentWeights& weights) {
    return std::make_unique<SoftmaxLatent>(shape, weights);
}

}  // namespace palimpsest
