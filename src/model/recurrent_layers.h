#pragma once

#include <memory>
#include <vector>

#include "model/layers.h"

namespace palimpsest {

// Pieces of families with recurrent layers. What is written here follows "Transformers are SSMs"
// (arXiv:2405.21060) for Mamba-2 and "Gated Delta Networks" (arXiv:2412.06464); libllama computes
// the same from the same files.

/// A short convolution along positions, every channel by itself, then SiLU.
struct ShortConvolution {
    /// [n_taps][n_channels]; the last tap is of the newest position.
    std::shared_ptr<const std::vector<float>> taps;
    Tensor bias = nullptr;  // [n_channels]
};

/// What the state-space keys of a file say ("ssm.*").
struct StateSizes {
    int64_t n_head = 0, n_key_head = 0;  // states; queries and keys
    int64_t d_key = 0, d_value = 0;
    int64_t n_taps = 0;

    [[nodiscard]] int64_t inner() const { return n_head * d_value; }
    [[nodiscard]] int64_t keys() const { return n_key_head * d_key; }
    /// Of the convolution: queries, keys and values.
    [[nodiscard]] int64_t n_channels() const { return inner() + 2 * keys(); }
    [[nodiscard]] RecurrentLayer layer(std::string_view rule, bool alternates) const;
};

/// Throws as ModelKeys does, and kCorrupt if the sizes contradict each other.
StateSizes read_state_sizes(const ModelKeys& keys);

/// Loads block `i`'s "ssm_conv1d".
ShortConvolution load_convolution(Weights& w, const StateSizes& sizes, int64_t i);

/// Of one lane: [n_channels, n].
Tensor convolve(const Pass& p, const ShortConvolution& conv, const Lane& lane, int64_t layer,
                Tensor channels);

/// Rows of x [.., n] from `first` on, in heads of d: [d, n_head, n]. Not copied.
Tensor head_rows(const Pass& p, Tensor x, int64_t first, int64_t d, int64_t n_head);

}  // namespace palimpsest
