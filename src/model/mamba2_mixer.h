#pragma once

#include "model/recurrent_layers.h"

namespace palimpsest {

/// The mixer of Mamba-2 (Dao and Gu, 2024, arXiv:2405.21060): projects to gates z, channels x, B
/// and C, and time steps; convolves the channels; and carries S <- exp(dt A) S + B (dt x)^T, read
/// with C. The gate first, then the norm, group by group.
struct Mamba2Mixer {
    Linear in, out;
    ShortConvolution conv;
    Tensor dt_bias = nullptr, a = nullptr;  // [n_head]; a: -exp(A_log)
    Tensor skip = nullptr;                  // [1, n_head]
    Tensor norm = nullptr;                  // [inner / groups, groups]
};

/// Loads block `i`'s.
Mamba2Mixer load_mamba2_mixer(Weights& w, const ModelConfig& cfg, const StateSizes& s, int64_t i);

/// [n_embd, n] to [n_embd, n].
Tensor mamba2_mixer(const Pass& p, const Mamba2Mixer& m, const StateSizes& s, Tensor x,
                    int64_t layer);

}  // namespace palimpsest
