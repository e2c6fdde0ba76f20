#pragma once

#include <cstdint>

#include "memory/context_memory.h"
#include "memory/option_reader.h"

namespace palimpsest {

class EvictionWeights;

/// What a policy or a residue is made from. All of it outlives what is made.
struct PartInputs {
    const MemoryShape& shape;
    OptionReader& options;                     // read while it is made, not afterwards
    const EvictionWeights* learned = nullptr;  // trained weights; nullptr: none are at hand
    int64_t interval = 128;                    // while writing, a cut comes every so many positions
    ggml_type entries = GGML_TYPE_F16;         // what the cache stores
};

}  // namespace palimpsest
