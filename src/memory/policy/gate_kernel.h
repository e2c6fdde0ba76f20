#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "memory/policy/eviction_weights.h"

namespace palimpsest {

/// What a gate says of tokens: [n][n_head_kv].
struct GateRatings {
    std::vector<float> magnitude;
    /// What a score gains with age, 0 or less; empty where scores do not fade.
    std::vector<float> retention;
};

/// A token's hidden state [n_embd], as the rest of the network wants it; `to` may be `hidden`.
void normalise_for_gate(const GateWeights& w, const GateLayer& layer, const float* hidden,
                        float* to);

/// The rest of the network, for rows of normalised hidden states [n][n_embd]; one thread. A row's
/// numbers do not depend on the rows beside it.
GateRatings rate_by_gate(const GateWeights& w, const GateLayer& layer,
                         std::span<const float> normalised);

}  // namespace palimpsest
