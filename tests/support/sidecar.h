#pragma once

#include <memory>

#include "memory/policy/eviction_weights.h"
#include "support/gguf_builder.h"

namespace palimpsest::testing {

/// The fields of a sidecar for a model of this shape, of small numbers: an indexer of two heads of
/// eight, a latent memory of six features, a gate of twelve that fades.
GgufBuilder small_sidecar(const MemoryShape& shape);

/// The same, loaded. Its backend lives as long as the program.
std::shared_ptr<const EvictionWeights> small_weights(const MemoryShape& shape);

/// A latent memory of the form kSoftmax alone, of six features.
GgufBuilder small_softmax_sidecar(const MemoryShape& shape);
std::shared_ptr<const EvictionWeights> small_softmax_memory(const MemoryShape& shape);

}  // namespace palimpsest::testing
