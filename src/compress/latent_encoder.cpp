#include "compress/latent_encoder.h"

#include <algorithm>

#include "core/error.h"
#include "core/finite.h"

namespace palimpsest {

namespace {

/// Rows of a window's longest input.
int64_t most_rows(const CompressionForm& f) {
    return f.window + f.overlap * (f.is_bidirectional ? 2 : 1) +
           (f.pooling == Pooling::kEos ? f.window / f.ratio : 0);
}

void check_fits(const LoadedModel& encoder, const LatentAdapter& adapter) {
    const CompressionForm& f = adapter.form();
    const ModelConfig& c = encoder.config();
    require(c.n_embd == f.encoder_width, "the adapter '", adapter.path(),
            "' is for an encoder of width ", f.encoder_width, ", and '", encoder.path(), "' has ",
            c.n_embd);
    require(most_rows(f) <= c.n_ctx_train, "the adapter '", adapter.path(), "' has windows of ",
            most_rows(f), " tokens, and the encoder '", encoder.path(), "' was trained for ",
            c.n_ctx_train);
    require(f.marker < c.n_vocab, "the adapter's marker token is ", f.marker,
            ", and the encoder has ", c.n_vocab, " tokens");
}

}  // namespace

void pool_states(const CompressionForm& form, const EncoderWindow& window,
                 std::span<const float> states, std::vector<float>& pooled) {
    const auto width = static_cast<size_t>(form.encoder_width);
    const auto row = [&](int64_t i) {
        return states.subspan(static_cast<size_t>(i) * width, width);
    };
    for (int64_t group = 0; group < window.n_latents; ++group) {
        const size_t at = pooled.size();
        pooled.resize(at + static_cast<size_t>(form.pooled_width()));
        const std::span<float> to = std::span(pooled).subspan(at);
        if (form.pooling == Pooling::kEos) {
            std::ranges::copy(row(window.n_tokens + group), to.begin());
            continue;
        }
        const int64_t first = group * form.ratio;
        const int64_t n = std::min(form.ratio, window.n_pooled - first);
        for (int64_t i = 0; i < n; ++i) {
            const auto from = row(window.pool_begin + first + i);
            if (form.pooling == Pooling::kConcat) {
                std::ranges::copy(from, to.begin() + i * form.encoder_width);
            } else {
                for (size_t c = 0; c < width; ++c) to[c] += from[c];
            }
        }
        if (form.pooling == Pooling::kMean) {
            for (float& value : to) value /= static_cast<float>(n);
        }
    }
}

LatentEncoder::LatentEncoder(const LoadedModel& encoder, const LatentAdapter& adapter,
                             Backend& backend, int64_t n_rows)
    : encoder_(encoder),
      adapter_(adapter),
      backend_(backend),
      n_rows_(n_rows),
      evaluator_(encoder.model(), backend) {
    check_fits(encoder, adapter);
    const CompressionForm& f = form();
    if (f.pooling == Pooling::kEos) {
        markers_.assign(static_cast<size_t>(f.window / f.ratio), f.marker);
    }
}

size_t LatentEncoder::how_many_at_once(std::span<const EncoderWindow> windows) const {
    size_t n = 0;
    int64_t rows = 0;
    for (const EncoderWindow& w : windows) {
        rows += w.n_rows(form());
        if (n > 0 && rows > n_rows_) break;
        ++n;
    }
    return n;
}

WindowMemory& LatentEncoder::memory(size_t i) {
    while (memories_.size() <= i) {
        memories_.push_back(
            std::make_unique<WindowMemory>(backend_, encoder_.config().memory_shape(),
                                           most_rows(form()), form().is_bidirectional));
    }
    return *memories_[i];
}

void LatentEncoder::run(std::span<const TokenId> region, std::span<const EncoderWindow> windows,
                        std::vector<float>& pooled, const OnStates& on_states) {
    std::vector<Lane> lanes;
    for (const EncoderWindow& w : windows) {
        const int64_t n = w.n_rows(form());
        const auto tokens =
            region.subspan(static_cast<size_t>(w.first), static_cast<size_t>(w.n_tokens));
        Lane lane = {.memory = &memory(lanes.size()),
                     .step = {.n = n},
                     .runs = {{.tokens = tokens}},
                     .n_logits = 0,
                     .n_hidden = n};
        if (n > w.n_tokens) {
            lane.runs.push_back(
                {.tokens = std::span(markers_).first(static_cast<size_t>(w.n_latents))});
        }
        lanes.push_back(std::move(lane));
    }
    const std::span<const LaneResult> results = evaluator_.step(lanes);
    size_t bytes = 0;
    for (size_t i = 0; i < windows.size(); ++i) {
        if (results[i].failure) throw Error(*results[i].failure);
        if (!is_finite(results[i].hidden)) {
            throw Error(ErrorCode::kCorrupt,
                        cat("what the encoder '", encoder_.path(), "' computes is not a number, ",
                            "or infinite: its weights are damaged"));
        }
        if (on_states) on_states(windows[i], results[i].hidden);
        pool_states(form(), windows[i], results[i].hidden, pooled);
        bytes += memories_[i]->usage().bytes + results[i].hidden.size_bytes();
    }
    peak_bytes_ = std::max(peak_bytes_, bytes);
}

std::vector<float> LatentEncoder::pool(std::span<const TokenId> region,
                                       std::span<const EncoderWindow> windows,
                                       const OnStates& on_states) {
    std::vector<float> pooled;
    while (!windows.empty()) {
        const size_t n = how_many_at_once(windows);
        run(region, windows.first(n), pooled, on_states);
        windows = windows.subspan(n);
    }
    return pooled;
}

std::vector<float> LatentEncoder::encode(std::span<const TokenId> region) {
    return adapt(pool(region, windows_of(form(), std::ssize(region))));
}

}  // namespace palimpsest
