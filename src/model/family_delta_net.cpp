// Gated DeltaNet with full attention between (Yang et al., 2024, arXiv:2412.06464; Qwen 3.5):
// x + mixer(norm(x)), then x + swiglu(norm(x)). The mixer of most blocks is recurrent: queries,
// keys and values of one short convolution, keys and queries of unit length, S <- a S + b k (v - a
// S^T k)^T, the output normed head by head and gated. The others attend, and a gate of each head's
// queries is what their output is multiplied with.
//
// In files of Qwen 3.5 states take turns with key heads (state j has key head j mod n): libllama's
// converter reorders values so. In those of Qwen 3 Next states of one key head stand together, one
// matrix gives, key head after key head, what is written and what decays of its states, and in
// older files another one its query, key, values and gates.

#include <cmath>

#include "core/error.h"
#include "model/families.h"
#include "model/mixed_decoder.h"

namespace palimpsest {

namespace {

struct DeltaNet {
    Linear qkv, gate;
    Linear write, decay;  // each of its own,
    Linear both;          // or together, key head after key head
    Linear all;           // so qkv and gate
    Linear out;
    ShortConvolution conv;
    Tensor dt_bias = nullptr, a = nullptr;  // [n_head]; a: -exp(A_log)
    Tensor norm = nullptr;                  // [d_value]
};

DeltaNet load_delta_net(Weights& w, const ModelConfig& cfg, const StateSizes& s, int64_t i) {
    const auto name = [i](const char* part) { return cat("blk.", i, ".", part); };
    const auto linear = [&](const char* part, int64_t n_out) {
        return load_linear(w, name(part), cfg.n_embd, n_out);
    };
    DeltaNet d = {.qkv = {},
                  .gate = {},
                  .write = {},
                  .decay = {},
                  .both = {},
                  .all = {},
                  .out = load_linear(w, name("ssm_out"), s.inner(), cfg.n_embd),
                  .conv = load_convolution(w, s, i),
                  .dt_bias = w.vector(name("ssm_dt.bias"), s.n_head),
                  .a = w.vector(name("ssm_a"), s.n_head),
                  .norm = w.vector(name("ssm_norm.weight"), s.d_value)};
    if (w.has(name("ssm_in.weight"))) {
        d.all = linear("ssm_in", s.n_channels() + s.inner());
    } else {
        d.qkv = linear("attn_qkv", s.n_channels());
        d.gate = linear("attn_gate", s.inner());
    }
    if (w.has(name("ssm_ba.weight"))) {
        d.both = linear("ssm_ba", 2 * s.n_head);
    } else {
        d.write = linear("ssm_beta", s.n_head);
        d.decay = linear("ssm_alpha", s.n_head);
    }
    return d;
}

/// Heads [d, n_head, n] of length `length`.
Tensor of_length(const Pass& p, Tensor heads, float length) {
    const auto d = static_cast<float>(heads->ne[0]);
    // x / sqrt(sum + eps): the norm's mean is a sum of one d-th.
    Tensor y = ggml_rms_norm(p.g.ctx(), ggml_cont(p.g.ctx(), heads), p.cfg.norm_eps / d);
    return ggml_scale(p.g.ctx(), y, length / std::sqrt(d));
}

/// Rows [first, first + n) of every key head's part of x, one head's after the other's.
Tensor key_head_rows(const Pass& p, Tensor x, const StateSizes& s, int64_t first, int64_t n) {
    ggml_context* c = p.g.ctx();
    x = ggml_cont(c, x);
    const int64_t each = x->ne[0] / s.n_key_head;
    const auto size = sizeof(float);
    Tensor rows = ggml_view_3d(c, x, n, s.n_key_head, x->ne[1], static_cast<size_t>(each) * size,
                               x->nb[1], static_cast<size_t>(first) * size);
    return ggml_cont_2d(c, rows, n * s.n_key_head, x->ne[1]);
}

/// What a block's matrices give of x: channels [n_channels, n], gates [inner, n], what is written
/// and what decays [n_head, n].
struct Projected {
    Tensor channels, gate, write, decay;
};

Projected project(const Pass& p, const DeltaNet& w, const StateSizes& s, Tensor x) {
    ggml_context* c = p.g.ctx();
    const bool is_grouped = w.all.weight != nullptr;
    std::vector<Linear> matrices = is_grouped ? std::vector{w.all} : std::vector{w.qkv, w.gate};
    const size_t at = matrices.size();
    if (w.both.weight != nullptr) {
        matrices.push_back(w.both);
    } else {
        matrices.insert(matrices.end(), {w.write, w.decay});
    }
    const std::vector<Tensor> out = p.products.of(p.g, matrices, x, p.many.read);
    Projected y = {};
    const int64_t states = s.n_head / s.n_key_head;  // of one key head
    const int64_t values = states * s.d_value;
    if (is_grouped) {
        Tensor q = key_head_rows(p, out[0], s, 0, s.d_key);
        Tensor k = key_head_rows(p, out[0], s, s.d_key, s.d_key);
        Tensor v = key_head_rows(p, out[0], s, 2 * s.d_key, values);
        y.channels = ggml_concat(c, ggml_concat(c, q, k, 0), v, 0);
        y.gate = key_head_rows(p, out[0], s, 2 * s.d_key + values, values);
    } else {
        y.channels = out[0];
        y.gate = ggml_cont(c, out[1]);
    }
    if (w.both.weight != nullptr) {
        y.write = key_head_rows(p, out[at], s, 0, states);
        y.decay = key_head_rows(p, out[at], s, states, states);
    } else {
        y.write = ggml_cont(c, out[at]);
        y.decay = ggml_cont(c, out[at + 1]);
    }
    return y;
}

struct DeltaInputs {
    Tensor hidden, channels, decay, write;
};

Tensor delta_lane(const Pass& p, const DeltaNet& w, const StateSizes& s, const Lane& lane,
                  int64_t layer, const DeltaInputs& in) {
    Tensor qkv = convolve(p, w.conv, lane, layer, in.channels);
    Tensor q = head_rows(p, qkv, 0, s.d_key, s.n_key_head);
    Tensor k = head_rows(p, qkv, s.keys(), s.d_key, s.n_key_head);
    return lane.memory->recur(p.g,
                              {.layer = layer,
                               .hidden = in.hidden,
                               .q = of_length(p, q, 1.0F / std::sqrt(static_cast<float>(s.d_key))),
                               .k = of_length(p, k, 1.0F),
                               .v = head_rows(p, qkv, 2 * s.keys(), s.d_value, s.n_head),
                               .decay = in.decay,
                               .write = in.write});
}

Tensor delta_net(const Pass& p, const DeltaNet& w, const StateSizes& s, Tensor x, int64_t layer) {
    ggml_context* c = p.g.ctx();
    const Projected in = project(p, w, s, x);
    Tensor write = ggml_sigmoid(c, in.write);
    Tensor decay = ggml_softplus(c, ggml_add(c, in.decay, w.dt_bias));
    decay = ggml_mul(c, decay, w.a);
    Tensor y = for_each_lane(p, [&](const LanePart& part) {
        return delta_lane(p, w, s, part.lane, layer,
                          {.hidden = part.of(p, x),
                           .channels = part.of(p, in.channels),
                           .decay = part.of(p, decay),
                           .write = part.of(p, write)});
    });
    // The norm first, head by head, then the gate.
    y = rms_norm(p, ggml_reshape_3d(c, y, s.d_value, s.n_head, y->ne[1]), w.norm);
    y = ggml_reshape_2d(c, y, s.inner(), y->ne[2]);
    y = ggml_swiglu_split(c, in.gate, y);
    return p.products.of(p.g, w.out, y, p.many.read);
}

/// Which blocks attend: those that are not flagged as recurrent, or every `interval`-th.
std::vector<bool> read_attending(const ModelConfig& cfg, const ModelKeys& keys) {
    constexpr int64_t kUsual = 4;
    const auto flags = keys.layers_flags("attention.recurrent_layers", cfg.n_layer);
    const int64_t interval = keys.count_or("full_attention_interval", {1, 1 << 20}, kUsual);
    std::vector<bool> attends;
    for (int64_t i = 0; i < cfg.n_layer; ++i) {
        attends.push_back(flags.empty() ? (i + 1) % interval == 0
                                        : flags[static_cast<size_t>(i)] == 0);
    }
    return attends;
}

/// Pairs of channels turn by positions in time, height and width, which take turns; in a text all
/// three are alike. A pair that is left over would turn by a fourth position, which texts have not.
void check_sections(const ModelConfig& cfg, const ModelKeys& keys) {
    const std::vector<int64_t> sections = keys.layers_flags("rope.dimension_sections", 4);
    if (sections.empty()) return;
    for (int64_t pair = 0; pair < cfg.n_rot / 2; ++pair) {
        if (pair / 3 < sections[static_cast<size_t>(pair % 3)]) continue;
        throw Error(ErrorCode::kUnsupported,
                    cat("rotation in sections of ", sections[0], ", ", sections[1], ", ",
                        sections[2], " and ", sections[3], " pairs: pair ", pair,
                        " is in none that a text's positions turn"));
    }
}

class Mixer final : public RecurrentMixer {
 public:
    Mixer(Weights& w, const ModelConfig& cfg, const StateSizes& sizes, int64_t i)
        : weights_(load_delta_net(w, cfg, sizes, i)), sizes_(sizes) {}
    [[nodiscard]] Tensor mix(const Pass& p, Tensor x, int64_t layer) const override {
        return delta_net(p, weights_, sizes_, x, layer);
    }

 private:
    DeltaNet weights_;
    StateSizes sizes_;
};

}  // namespace

std::unique_ptr<Model> make_delta_net(const FamilyInputs& in) {
    const StateSizes sizes = read_state_sizes(in.keys);
    ModelConfig cfg = in.cfg;
    check_sections(cfg, in.keys);
    for (const bool attends : read_attending(cfg, in.keys)) {
        if (attends) {
            cfg.layers.emplace_back(
                AttentionLayer{.n_head_kv = cfg.n_head_kv, .d_head = cfg.d_head});
        } else {
            cfg.layers.emplace_back(sizes.layer("gated-delta", in.traits.states_alternate));
        }
    }
    const MixedBlocks blocks = {.ffn_norm = "post_attention_norm",
                                .is_gated = true,
                                .load_mixer = [sizes](Weights& w, const ModelConfig& c, int64_t i) {
                                    return std::make_unique<Mixer>(w, c, sizes, i);
                                }};
    return std::make_unique<MixedDecoder>(cfg, blocks, in);
}

}  // namespace palimpsest
