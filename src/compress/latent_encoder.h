#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "compress/compression_form.h"
#include "compress/latent_adapter.h"
#include "compress/window_memory.h"
#include "engine/evaluator.h"
#include "model/load.h"

namespace palimpsest {

/// Turns the tokens of a text into latents, window by window. Nothing of a window stays once it is
/// pooled, and of its keys and values there is never more than one layer's. Not thread-safe.
class LatentEncoder {
 public:
    /// All must outlive it. `n_rows`: of so many rows windows go into one graph; the longest may
    /// have more. Throws kInvalidArgument if encoder and adapter do not fit together.
    LatentEncoder(const LoadedModel& encoder, const LatentAdapter& adapter, Backend& backend,
                  int64_t n_rows = kRows);

    [[nodiscard]] const CompressionForm& form() const { return adapter_.form(); }
    [[nodiscard]] const LoadedModel& model() const { return encoder_; }
    [[nodiscard]] const LatentAdapter& adapter() const { return adapter_; }
    [[nodiscard]] Backend& backend() const { return backend_; }

    /// States of a window's input after the encoder's last norm, [rows][encoder width].
    using OnStates = std::function<void(const EncoderWindow&, std::span<const float> states)>;

    /// What the groups of those windows of a region come to before the adapter, [latents][pooled
    /// width], window after window. Throws kInvalidArgument for tokens that do not exist, kCorrupt
    /// if the states are not numbers, kExhausted.
    [[nodiscard]] std::vector<float> pool(std::span<const TokenId> region,
                                          std::span<const EncoderWindow> windows,
                                          const OnStates& on_states = {});

    /// Latents [n][decoder width] of pooled states; as LatentAdapter::apply().
    [[nodiscard]] std::vector<float> adapt(std::span<const float> pooled) {
        return adapter_.apply(pooled, backend_);
    }

    /// All latents of a region, [n][decoder width].
    [[nodiscard]] std::vector<float> encode(std::span<const TokenId> region);

    /// How many of `windows`, which come in order, go into one graph.
    [[nodiscard]] size_t how_many_at_once(std::span<const EncoderWindow> windows) const;

    /// Most bytes that the encoder's windows have taken.
    [[nodiscard]] size_t peak_bytes() const { return peak_bytes_; }

 private:
    static constexpr int64_t kRows = 1024;

    void run(std::span<const TokenId> region, std::span<const EncoderWindow> windows,
             std::vector<float>& pooled, const OnStates& on_states);
    [[nodiscard]] WindowMemory& memory(size_t i);

    const LoadedModel& encoder_;
    const LatentAdapter& adapter_;
    Backend& backend_;
    int64_t n_rows_;
    Evaluator evaluator_;
    std::vector<std::unique_ptr<WindowMemory>> memories_;  // of the windows in one graph
    std::vector<TokenId> markers_;                         // as many as a window can want
    size_t peak_bytes_ = 0;
};

/// Adds to `pooled` what a window's groups come to. `states`: of its input, [rows][encoder width].
void pool_states(const CompressionForm& form, const EncoderWindow& window,
                 std::span<const float> states, std::vector<float>& pooled);

}  // namespace palimpsest
