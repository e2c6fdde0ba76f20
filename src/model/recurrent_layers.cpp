#include "model/recurrent_layers.h"

#include <algorithm>

#include "core/error.h"
#include "model/convolution_kernel.h"

namespace palimpsest {

namespace {

constexpr ModelKeys::Range kHeads = {1, 1 << 16};
constexpr ModelKeys::Range kSizes = {1, 1 << 16};
constexpr ModelKeys::Range kInner = {1, 1 << 24};
constexpr ModelKeys::Range kTaps = {2, 64};

/// Channels are apart from each other: some at a time. Sources: the channels, and the bias.
class ConvolutionOp final : public CustomOp {
 public:
    explicit ConvolutionOp(std::shared_ptr<const std::vector<float>> taps)
        : taps_(std::move(taps)) {}

    void run(ggml_tensor* dst, int /*thread*/, int n_threads) noexcept override {
        const int64_t n_channels = dst->ne[0];
        const int64_t n = (n_channels + kChannels - 1) / kChannels;
        ConvolutionRun run = {
            .n = dst->ne[1],
            .in = static_cast<const float*>(dst->src[0]->data),
            .in_step = n_channels,
            .taps = taps_->data(),
            .n_taps = std::ssize(*taps_) / n_channels,
            .taps_step = n_channels,
            .bias = dst->src[1] == nullptr ? nullptr : static_cast<const float*>(dst->src[1]->data),
            .out = static_cast<float*>(dst->data),
            .out_step = n_channels};
        for (int64_t i = work_.take(); i < n; i = work_.take()) {
            run.first = i * kChannels;
            run.n_channels = std::min(kChannels, n_channels - run.first);
            convolve(run);
        }
        work_.leave(n_threads);
    }

 private:
    static constexpr int64_t kChannels = 256;
    std::shared_ptr<const std::vector<float>> taps_;
    WorkList work_;
};

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
    const Tensor weight = w.values(name + ".weight", {s.n_taps, s.n_channels(), 1, 1});
    const auto n_channels = static_cast<size_t>(s.n_channels());
    const auto n_taps = static_cast<size_t>(s.n_taps);
    const auto* from = static_cast<const float*>(weight->data);
    std::vector<float> taps(n_taps * n_channels);
    for (size_t c = 0; c < n_channels; ++c) {
        for (size_t j = 0; j < n_taps; ++j) taps[j * n_channels + c] = from[c * n_taps + j];
    }
    ShortConvolution conv = {.taps = std::make_shared<const std::vector<float>>(std::move(taps))};
    if (w.has(name + ".bias")) conv.bias = w.vector(name + ".bias", s.n_channels());
    return conv;
}

Tensor convolve(const Pass& p, const ShortConvolution& conv, const Lane& lane, int64_t layer,
                Tensor channels) {
    Tensor all = lane.memory->with_before(p.g, layer, channels);
    std::vector<Tensor> sources = {all};
    if (conv.bias != nullptr) sources.push_back(conv.bias);
    return p.g.custom({channels->ne[0], channels->ne[1], 1, 1}, sources,
                      std::make_unique<ConvolutionOp>(conv.taps));
}

Tensor head_rows(const Pass& p, Tensor x, int64_t first, int64_t d, int64_t n_head) {
    return ggml_view_3d(p.g.ctx(), x, d, n_head, x->ne[1], static_cast<size_t>(d) * sizeof(float),
                        x->nb[1], static_cast<size_t>(first) * sizeof(float));
}

}  // namespace palimpsest
