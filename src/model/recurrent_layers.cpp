#include "model/recurrent_layers.h"

#include "core/error.h"

namespace palimpsest {

namespace {

constexpr ModelKeys::Range kHeads = {1, 1 << 16};
constexpr ModelKeys::Range kSizes = {1, 1 << 16};
constexpr ModelKeys::Range kInner = {1, 1 << 24};
constexpr ModelKeys::Range kTaps = {2, 64};

}  // namespace

RecurrentLayer StateSizes::layer(std::string_view rule, bool alternates) const {
    return {.kind = rule,
            .n_head = n_head,
            .n_key_head = n_key_head,
            .alternates = alternates,
            .n_rows = d_key,
            .n_columns = d_value,
            .n_channels = n_channels(),
            .n_before = n_taps - 1};
}

StateSizes read_state_sizes(const ModelKeys& keys) {
    StateSizes s;
    s.n_head = keys.count("ssm.time_step_rank", kHeads);
    s.n_key_head = keys.count("ssm.group_count", kHeads);
    s.d_key = keys.count("ssm.state_size", kSizes);
    s.n_taps = keys.count("ssm.conv_kernel", kTaps);
    const int64_t inner = keys.count("ssm.inner_size", kInner);
    if (inner % s.n_head != 0 || s.n_head % s.n_key_head != 0) {
        throw Error(ErrorCode::kCorrupt,
                    cat("recurrent states of ", s.n_head, " heads and ", s.n_key_head,
                        " groups do not divide ", inner, " channels evenly"));
    }
    s.d_value = inner / s.n_head;
    return s;
}

ShortConvolution load_convolution(Weights& w, const StateSizes& s, int64_t i) {
    const std::string name = cat("blk.", i, ".ssm_conv1d");
    ShortConvolution conv = {.weight =
                                 w.values(name + ".weight", {s.n_taps, s.n_channels(), 1, 1})};
    if (w.has(name + ".bias")) conv.bias = w.vector(name + ".bias", s.n_channels());
    return conv;
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

Tensor for_each_lane(const Pass& p, int64_t n_rows, const std::function<Tensor(LanePart)>& work) {
    ggml_context* c = p.g.ctx();
    Tensor all = nullptr;
    const bool is_all = p.lanes.size() == 1 && p.n_filling == 0;
    int64_t at = 0;
    for (const Lane& lane : p.lanes) {
        Tensor y = work({.lane = lane, .at = at, .is_all = is_all});
        all = all == nullptr ? y : ggml_concat(c, all, y, 1);
        at += lane.step.n;
    }
    if (p.n_filling == 0) return all;
    Tensor rest = ggml_view_2d(c, all, n_rows, 1, all->nb[1], 0);  // anything of the right shape
    return ggml_concat(c, all, ggml_repeat_4d(c, rest, n_rows, p.n_filling, 1, 1), 1);
}

Tensor convolve(const Pass& p, const ShortConvolution& conv, const Lane& lane, int64_t layer,
                Tensor channels) {
    ggml_context* c = p.g.ctx();
    Tensor all = lane.memory->with_before(p.g, layer, channels);
    Tensor y = ggml_ssm_conv(c, ggml_cont(c, ggml_transpose(c, all)), conv.weight);
    y = ggml_reshape_2d(c, y, channels->ne[0], channels->ne[1]);
    if (conv.bias != nullptr) y = ggml_add(c, y, conv.bias);
    return ggml_silu(c, y);
}

Tensor head_rows(const Pass& p, Tensor x, int64_t first, int64_t d, int64_t n_head) {
    return ggml_view_3d(p.g.ctx(), x, d, n_head, x->ne[1], static_cast<size_t>(d) * sizeof(float),
                        x->nb[1], static_cast<size_t>(first) * sizeof(float));
}

}  // namespace palimpsest
