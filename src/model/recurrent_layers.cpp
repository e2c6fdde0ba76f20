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
