#include "model/layers.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "core/error.h"

namespace palimpsest {

namespace {

std::string block(int64_t i, std::string_view name) { return cat("blk.", i, ".", name); }

void put(std::span<std::byte>& out, int32_t value) {
    std::memcpy(out.data(), &value, sizeof value);
    out = out.subspan(sizeof value);
}

template <typename T>
void copy_to(std::span<std::byte> out, std::span<const T> from) {
    std::memcpy(out.data(), from.data(), out.size());
}

Tensor rotate(const Pass& p, const AttentionWeights& w, Tensor t, int64_t layer) {
    const ModelConfig& cfg = p.cfg;
    if (!cfg.rotates) return ggml_cont(p.g.ctx(), t);
    const bool windowed = !cfg.windows.empty() && cfg.windows[static_cast<size_t>(layer)] > 0;
    const RopeScaling s = cfg.rope_scaling_of(windowed);
    const int type = cfg.rope_adjacent ? GGML_ROPE_TYPE_NORMAL : GGML_ROPE_TYPE_NEOX;
    return ggml_rope_ext(p.g.ctx(), t, p.positions, w.rope_factors, static_cast<int>(cfg.n_rot),
                         type, static_cast<int>(s.n_ctx_original), cfg.rope_base_of(windowed),
                         1.0F / s.factor, s.ext_factor, s.attn_factor, s.beta_fast, s.beta_slow);
}

/// [d_head, n_head, n] of a projection [n_head * `per_head` * d_head, n]: of each head the
/// `which`-th part.
Tensor head_parts(const Pass& p, Tensor t, int64_t n_head, size_t per_head, size_t which) {
    const auto head_bytes = static_cast<size_t>(p.cfg.d_head) * sizeof(float);
    return ggml_view_3d(p.g.ctx(), t, p.cfg.d_head, n_head, t->ne[1], per_head * head_bytes,
                        t->nb[1], which * head_bytes);
}

/// The whole of it, normed if the family norms it.
Tensor heads(const Pass& p, Tensor t, int64_t n_head, Tensor norm, size_t per_head = 1) {
    t = head_parts(p, t, n_head, per_head, 0);
    return norm == nullptr ? t : rms_norm(p, t, norm);
}

// Positions of a lane that are in question.
using Counted = int64_t (*)(const Lane& lane);
int64_t n_positions(const Lane& lane) { return lane.step.n; }
int64_t n_logits(const Lane& lane) { return lane.n_logits; }
int64_t n_hidden(const Lane& lane) { return lane.n_hidden; }
int64_t n_wanted(const Lane& lane) { return std::max(lane.n_logits, lane.n_hidden); }

/// What every lane has.
ManyRows common(const std::vector<Lane>& lanes, int64_t many) {
    ManyRows all = {.read = true, .wanted = true, .logits = true};
    for (const Lane& lane : lanes) {
        const ManyRows own = many_rows(lane, many);
        all = {.read = all.read && own.read,
               .wanted = all.wanted && own.wanted,
               .logits = all.logits && own.logits};
    }
    return all;
}

/// Places of every lane's last columns, where so many columns stand for it: [sum of counts, or
/// least_rows] i32.
Tensor last_columns(const Pass& p, Counted count, Counted standing) {
    int64_t n = 0;
    for (const Lane& lane : p.lanes) n += count(lane);
    n = std::max(n, p.least_rows);
    const auto fill = [&lanes = p.lanes, count, standing](std::span<std::byte> out) {
        int64_t end = 0;
        for (const Lane& lane : lanes) {
            end += standing(lane);
            for (int64_t i = end - count(lane); i < end; ++i) put(out, static_cast<int32_t>(i));
        }
        while (!out.empty()) put(out, 0);
    };
    return p.g.input(GGML_TYPE_I32, {n, 1, 1, 1}, fill);
}

/// Run `r` of a lane, which is asked for it whenever the graph runs.
Tensor embed_run(const Pass& p, Tensor table, float scale, const Lane& lane, size_t r) {
    const int64_t n = lane.runs[r].size(p.cfg.n_embd);
    if (!lane.runs[r].rows.empty()) {
        return p.g.input(GGML_TYPE_F32, {p.cfg.n_embd, n, 1, 1},
                         [&lane, r](auto out) { copy_to(out, lane.runs[r].rows); });
    }
    Tensor ids = p.g.input(GGML_TYPE_I32, {n, 1, 1, 1},
                           [&lane, r](auto out) { copy_to(out, lane.runs[r].tokens); });
    Tensor x = ggml_get_rows(p.g.ctx(), table, ids);
    return scale == 1.0F ? x : ggml_scale(p.g.ctx(), x, scale);
}

/// dst [m, sum of n] f32: the sources' columns [m, n], one after another.
class JoinOp final : public CustomOp {
 public:
    void run(ggml_tensor* dst, int thread, int n_threads) noexcept override {
        const size_t bytes = static_cast<size_t>(dst->ne[0]) * sizeof(float);
        int64_t at = 0;
        for (int s = 0; s < GGML_MAX_SRC && dst->src[s] != nullptr; ++s) {
            const ggml_tensor* from = dst->src[s];
            for (int64_t i = 0; i < from->ne[1]; ++i, ++at) {
                if (at % n_threads != thread) continue;
                std::memcpy(
                    static_cast<std::byte*>(dst->data) + static_cast<size_t>(at) * dst->nb[1],
                    static_cast<const std::byte*>(from->data) +
                        static_cast<size_t>(i) * from->nb[1],
                    bytes);
            }
        }
    }
};

/// In one node for up to nine: one for each pair copies what was joined before again and again.
Tensor side_by_side(Graph& g, std::vector<Tensor> parts) {
    constexpr size_t kMost = 9;
    while (parts.size() > 1) {
        std::vector<Tensor> joined;
        for (size_t i = 0; i < parts.size(); i += kMost) {
            const auto some = std::span(parts).subspan(i, std::min(kMost, parts.size() - i));
            int64_t n = 0;
            for (const Tensor t : some) n += t->ne[1];
            joined.push_back(some.size() == 1 ? some[0]
                                              : g.custom({some[0]->ne[0], n, 1, 1}, some,
                                                         std::make_unique<JoinOp>()));
        }
        parts = std::move(joined);
    }
    return parts[0];
}

}  // namespace

Decoder::Decoder(ModelConfig cfg, const FamilyInputs& in)
    : cfg_(std::move(cfg)), products_(in.products), outer_(load_outer(in.weights, cfg_)) {}

ModelOutputs Decoder::forward(Graph& g, const std::vector<Lane>& lanes, int64_t least_rows) const {
    const Pass p = begin_pass(g, cfg_, products_, lanes, least_rows);
    return outputs(p, outer_, blocks(p, embed(p, outer_.embedding, cfg_.embedding_scale)));
}

Linear load_linear(Weights& w, const std::string& prefix, int64_t n_in, int64_t n_out) {
    Linear l = {.weight = w.matrix(prefix + ".weight", n_in, n_out), .bias = nullptr};
    if (w.has(prefix + ".bias")) l.bias = w.vector(prefix + ".bias", n_out);
    return l;
}

AttentionWeights load_attention(Weights& w, const ModelConfig& cfg, int64_t i, bool has_norms,
                                bool is_gated) {
    const int64_t n_q = cfg.n_head * cfg.d_head;
    const int64_t n_kv = cfg.n_head_kv * cfg.d_head;
    const int64_t n_q_rows = is_gated ? 2 * n_q : n_q;
    AttentionWeights a = {.q = load_linear(w, block(i, "attn_q"), cfg.n_embd, n_q_rows),
                          .k = load_linear(w, block(i, "attn_k"), cfg.n_embd, n_kv),
                          .v = load_linear(w, block(i, "attn_v"), cfg.n_embd, n_kv),
                          .o = load_linear(w, block(i, "attn_output"), n_q, cfg.n_embd)};
    if (has_norms) {
        a.q_norm = w.vector(block(i, "attn_q_norm.weight"), cfg.d_head);
        a.k_norm = w.vector(block(i, "attn_k_norm.weight"), cfg.d_head);
    }
    if (w.has("rope_freqs.weight")) a.rope_factors = w.vector("rope_freqs.weight", cfg.n_rot / 2);
    a.scale = cfg.attention_scale > 0 ? cfg.attention_scale
                                      : 1.0F / std::sqrt(static_cast<float>(cfg.d_head));
    a.is_gated = is_gated;
    return a;
}

FeedForwardWeights load_feed_forward(Weights& w, const ModelConfig& cfg, int64_t i) {
    const auto matrix = [&](std::string_view name, int64_t n_in, int64_t n_out) {
        return Linear{.weight = w.matrix(block(i, name), n_in, n_out)};
    };
    return {.gate = matrix("ffn_gate.weight", cfg.n_embd, cfg.n_ff),
            .up = matrix("ffn_up.weight", cfg.n_embd, cfg.n_ff),
            .down = matrix("ffn_down.weight", cfg.n_ff, cfg.n_embd)};
}

OuterWeights load_outer(Weights& w, const ModelConfig& cfg) {
    const std::string head = w.has("output.weight") ? "output.weight" : "token_embd.weight";
    return {.embedding = w.table("token_embd.weight", cfg.n_embd, cfg.n_vocab),
            .norm = w.vector("output_norm.weight", cfg.n_embd),
            .head = {.weight = w.matrix(head, cfg.n_embd, cfg.n_vocab)}};
}

Pass begin_pass(Graph& g, const ModelConfig& cfg, const LinearProducts& products,
                const std::vector<Lane>& lanes, int64_t least_rows) {
    Pass p = {.g = g, .cfg = cfg, .products = products, .lanes = lanes, .positions = nullptr};
    for (const Lane& lane : lanes) {
        p.n += lane.step.n;
        p.n_wanted += n_wanted(lane);
    }
    p.many = common(lanes, products.many_rows());
    p.least_rows = least_rows;
    p.n_filling = std::max<int64_t>(0, least_rows - p.n);
    p.n += p.n_filling;
    p.positions = g.input(GGML_TYPE_I32, {p.n, 1, 1, 1}, [&lanes](std::span<std::byte> out) {
        for (const Lane& lane : lanes) {
            for (int64_t i = 0; i < lane.step.n; ++i) {
                put(out, static_cast<int32_t>(lane.step.first_pos + i));
            }
        }
        while (!out.empty()) put(out, 0);
    });
    if (p.n_wanted == p.n || p.n_wanted == 0) return p;
    p.wanted = last_columns(p, n_wanted, n_positions);
    return p;
}

Tensor embed(const Pass& p, Tensor table, float scale) {
    std::vector<Tensor> parts;
    for (const Lane& lane : p.lanes) {
        for (size_t r = 0; r < lane.runs.size(); ++r) {
            parts.push_back(embed_run(p, table, scale, lane, r));
        }
    }
    if (p.n_filling > 0) {
        parts.push_back(p.g.input(GGML_TYPE_F32, {p.cfg.n_embd, p.n_filling, 1, 1},
                                  [](auto out) { std::ranges::fill(out, std::byte{0}); }));
    }
    return side_by_side(p.g, std::move(parts));
}

Tensor rms_norm(const Pass& p, Tensor x, Tensor weight) {
    return ggml_mul(p.g.ctx(), ggml_rms_norm(p.g.ctx(), x, p.cfg.norm_eps), weight);
}

Tensor LanePart::of(const Pass& p, Tensor t) const {
    if (is_all) return t;
    ggml_context* c = p.g.ctx();
    const int64_t n = lane.step.n;
    if (t->ne[2] == 1) {
        return ggml_view_2d(c, t, t->ne[0], n, t->nb[1], static_cast<size_t>(at) * t->nb[1]);
    }
    return ggml_view_3d(c, t, t->ne[0], t->ne[1], n, t->nb[1], t->nb[2],
                        static_cast<size_t>(at) * t->nb[2]);
}

Tensor for_each_lane(const Pass& p, const std::function<Tensor(const LanePart&)>& work) {
    const bool is_all = p.lanes.size() == 1 && p.n_filling == 0;
    std::vector<Tensor> parts;
    int64_t at = 0;
    for (const Lane& lane : p.lanes) {
        parts.push_back(work({.lane = lane, .at = at, .is_all = is_all}));
        at += lane.step.n;
    }
    if (is_all) return parts[0];
    // What fills up is anything of the right shape.
    if (p.n_filling > 0) {
        const Tensor first = parts[0];
        parts.push_back(ggml_repeat_4d(
            p.g.ctx(), ggml_view_2d(p.g.ctx(), first, first->ne[0], 1, first->nb[1], 0),
            first->ne[0], p.n_filling, 1, 1));
    }
    return side_by_side(p.g, std::move(parts));
}

Tensor attention(const Pass& p, const AttentionWeights& w, Tensor x, int64_t layer) {
    ggml_context* c = p.g.ctx();
    const std::array<Linear, 3> qkv = {w.q, w.k, w.v};
    const std::vector<Tensor> projected = p.products.of(p.g, qkv, x, p.many.read);
    Tensor q_raw = heads(p, projected[0], p.cfg.n_head, w.q_norm, w.is_gated ? 2 : 1);
    Tensor k_raw = heads(p, projected[1], p.cfg.n_head_kv, w.k_norm);
    Tensor v = heads(p, projected[2], p.cfg.n_head_kv, nullptr);
    Tensor q = rotate(p, w, q_raw, layer);
    Tensor k = rotate(p, w, k_raw, layer);

    const bool may_round = p.many.read && p.products.rounds(w.q);
    Tensor out = for_each_lane(p, [&](const LanePart& part) {
        return part.lane.memory->attend(p.g, {.layer = layer,
                                              .hidden = part.of(p, x),
                                              .q = part.of(p, q),
                                              .k = part.of(p, k),
                                              .v = part.of(p, v),
                                              .q_raw = part.of(p, q_raw),
                                              .k_raw = part.of(p, k_raw),
                                              .scale = w.scale,
                                              .may_round = may_round});
    });
    if (w.is_gated) {
        Tensor gates = ggml_cont(c, head_parts(p, projected[0], p.cfg.n_head, 2, 1));
        gates = ggml_reshape_2d(c, gates, out->ne[0], out->ne[1]);
        out = ggml_mul(c, out, ggml_sigmoid(c, gates));
    }
    return p.products.of(p.g, w.o, out, p.many.read);
}

Tensor keep_wanted(const Pass& p, Tensor x) {
    return p.wanted == nullptr ? x : ggml_get_rows(p.g.ctx(), x, p.wanted);
}

Tensor feed_forward(const Pass& p, const FeedForwardWeights& w, Gating f, Tensor x) {
    return p.products.gated(p.g, {.gate = w.gate, .up = w.up, .down = w.down, .gating = f}, x,
                            p.is_many(x));
}

ModelOutputs outputs(const Pass& p, const OuterWeights& w, Tensor x) {
    if (p.n_wanted == 0) return {};
    ggml_context* c = p.g.ctx();
    Tensor y = rms_norm(p, x, w.norm);
    const auto part = [&](Counted count) {
        int64_t n = 0;
        for (const Lane& lane : p.lanes) n += count(lane);
        if (n == 0) return Tensor{nullptr};
        return n == p.n_wanted ? y : ggml_get_rows(c, y, last_columns(p, count, n_wanted));
    };
    ModelOutputs out = {.logits = part(n_logits), .hidden = part(n_hidden)};
    if (out.logits == nullptr) return out;
    out.logits = p.products.logits(p.g, w.head, out.logits, p.many.logits);
    if (p.cfg.logit_divisor != 1.0F) {
        out.logits = ggml_scale(c, out.logits, 1.0F / p.cfg.logit_divisor);
    }
    const float cap = p.cfg.final_logit_softcap;
    if (cap <= 0) return out;
    out.logits = ggml_scale(c, ggml_tanh(c, ggml_scale(c, out.logits, 1.0F / cap)), cap);
    return out;
}

}  // namespace palimpsest
