#pragma once

#include <memory>

#include "memory/policy/eviction_weights.h"
#include "memory/residue/residue.h"

namespace palimpsest {

/// A latent memory of the form kSoftmax. `weights` must outlive it.
std::unique_ptr<Residue> make_softmax_latent(const MemoryShape& shape,
                                             const LatentWeights& weights);

}  // namespace palimpsest
