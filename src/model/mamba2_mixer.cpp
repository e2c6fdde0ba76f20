#include "model/mamba2_mixer.h"

#include "core/error.h"

namespace palimpsest {

namespace {

/// What the states give of a lane, and the channels themselves: [inner, n]. `dt`: [n_head, n].
Tensor mix_lane(const Pass& p, const Mamba2Mixer& m, const StateSizes& s, const Lane& lane,
                int64_t layer, Tensor hidden, Tensor channels, Tensor dt) {
    ggml_context* c = p.g.ctx();
    Tensor xbc = convolve(p, m.conv, lane, layer, channels);
    // What is written is dt x, so x is written with the strength dt.
    return lane.memory->recur(p.g,
                              {.layer = layer,
                               .hidden = hidden,
                               .q = head_rows(p, xbc, s.inner() + s.keys(), s.d_key, s.n_key_head),
                               .k = head_rows(p, xbc, s.inner(), s.d_key, s.n_key_head),
                               .v = head_rows(p, xbc, 0, s.d_value, s.n_head),
                               .decay = ggml_mul(c, dt, ggml_reshape_1d(c, m.a, s.n_head)),
                               .write = dt,
                               .skip = ggml_reshape_1d(c, m.skip, s.n_head)});
}

}  // namespace

Mamba2Mixer load_mamba2_mixer(Weights& w, const ModelConfig& cfg, const StateSizes& s, int64_t i) {
    const auto name = [i](const char* part) { return cat("blk.", i, ".", part); };
    const int64_t n_in = 2 * s.inner() + 2 * s.keys() + s.n_head;
    return {
        .in = load_linear(w, name("ssm_in"), cfg.n_embd, n_in),
        .out = load_linear(w, name("ssm_out"), s.inner(), cfg.n_embd),
        .conv = load_convolution(w, s, i),
        .dt_bias = w.vector(name("ssm_dt.bias"), s.n_head),
        .a = w.values(name("ssm_a"), {1, s.n_head, 1, 1}),
        .skip = w.values(name("ssm_d"), {1, s.n_head, 1, 1}),
        .norm = w.values(name("ssm_norm.weight"), {s.inner() / s.n_key_head, s.n_key_head, 1, 1})};
}

Tensor mamba2_mixer(const Pass& p, const Mamba2Mixer& m, const StateSizes& s, Tensor x,
                    int64_t layer) {
    ggml_context* c = p.g.ctx();
    Tensor in = p.products.of(p.g, m.in, x, p.many.read);
    const auto rows = [&](int64_t first, int64_t n) {
        return ggml_view_2d(c, in, n, in->ne[1], in->nb[1],
                            static_cast<size_t>(first) * sizeof(float));
    };
    Tensor z = rows(0, s.inner());
    Tensor channels = rows(s.inner(), s.n_channels());
    Tensor dt =
        ggml_softplus(c, ggml_add(c, rows(s.inner() + s.n_channels(), s.n_head), m.dt_bias));
    Tensor y = for_each_lane(p, [&](const LanePart& part) {
        return mix_lane(p, m, s, part.lane, layer, part.of(p, x), part.of(p, channels),
                        part.of(p, dt));
    });
    // The gate first, then the norm, group by group.
    y = ggml_swiglu_split(c, z, y);
    y = ggml_reshape_3d(c, y, s.inner() / s.n_key_head, s.n_key_head, y->ne[1]);
    y = rms_norm(p, y, m.norm);
    y = ggml_reshape_2d(c, y, s.inner(), y->ne[2]);
    return p.products.of(p.g, m.out, y, p.many.read);
}

}  // namespace palimpsest
