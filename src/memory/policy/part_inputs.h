#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "memory/context_memory.h"
#include "memory/option_reader.h"

namespace palimpsest {

class EvictionWeights;
class Observers;

/// Supplies a layer's attention output weights, [n_embd][n_head * d_head] f32.
using OutputWeights = std::function<std::vector<float>(int64_t layer)>;

/// What a policy, an allocator or a residue is made from. All of it outlives what is made.
struct PartInputs {
    const MemoryShape& shape;
    OptionReader& options;  // read while it is made, not afterwards
    Observers& observers;   // what it needs to be noted of passing queries is added to these
    const EvictionWeights* learned = nullptr;  // trained weights; nullptr: none are at hand
    int64_t interval = 128;                    // while writing, a cut comes every so many positions
    ggml_type entries = GGML_TYPE_F16;         // what the cache stores
    OutputWeights output_weights = {};         // empty: none are at hand
};

}  // namespace palimpsest
