#pragma once

#include "model/experts.h"

namespace palimpsest {

/// x + attention(norm(x)), then x + feed_forward(norm(x)).
struct PreNormBlock {
    Tensor attn_norm = nullptr, ffn_norm = nullptr;
    AttentionWeights attn;
    FeedForward ffn;
};

/// Loads block `i`'s.
PreNormBlock load_pre_norm_block(Weights& w, const ModelConfig& cfg, int64_t i, bool has_norms);

/// Block `layer`. If no other attends after it, `is_last`: only the wanted columns go on.
Tensor pre_norm_block(const Pass& p, const PreNormBlock& b, Tensor x, int64_t layer, bool is_last);

}  // namespace palimpsest
