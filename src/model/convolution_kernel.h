#pragma once

#include <cstdint>

namespace palimpsest {

/// Channels [first, first + n_channels) of a short convolution along positions, then SiLU:
/// out[t][c] = silu(bias[c] + sum over j of taps[j][c] in[t + j][c]).
struct ConvolutionRun {
    int64_t n = 0;              // positions out; n + n_taps - 1 in
    const float* in = nullptr;  // [..][in_step]
    int64_t in_step = 0;
    const float* taps = nullptr;  // [n_taps][taps_step]
    int64_t n_taps = 0, taps_step = 0;
    const float* bias = nullptr;  // nullptr: 0
    float* out = nullptr;         // [n][out_step]
    int64_t out_step = 0;
    int64_t first = 0, n_channels = 0;
};

/// A position's results are the same bits however positions come in runs.
void convolve(const ConvolutionRun& run);

}  // namespace palimpsest
