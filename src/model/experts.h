#pragma once

#include "model/layers.h"

namespace palimpsest {

/// A feed-forward of many small ones, of which each position uses a few (Shazeer et al., 2017,
/// arXiv:1701.06538; softmax over all, the weights of those used add up to 1, as in Mixtral, Qwen 3
/// and Granite). One that all positions use may stand beside them, behind a gate of its own.
struct ExpertWeights {
    Linear router;                                        // [n_embd] to [n_expert]
    Tensor gate = nullptr, up = nullptr, down = nullptr;  // [n_in, n_out, n_expert]
    int64_t n_used = 0;
    FeedForwardWeights shared = {};
    Linear shared_gate = {};  // [n_embd] to [1]
};

/// What a block has behind its mixer: one feed-forward, or experts.
struct FeedForward {
    FeedForwardWeights dense = {};
    ExpertWeights experts = {};  // n_used 0: there are none
};

/// Loads block `i`'s: experts where the configuration has them.
FeedForward load_any_feed_forward(Weights& w, const ModelConfig& cfg, int64_t i);

/// x [n_embd, n] to the same.
Tensor any_feed_forward(const Pass& p, const FeedForward& f, Tensor x);

}  // namespace palimpsest
