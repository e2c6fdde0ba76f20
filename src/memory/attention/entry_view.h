#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "memory/context_memory.h"
#include "memory/kernels/attention_kernel.h"

namespace palimpsest {

/// The entries of one KV head. Entry i lies in slot i.
struct HeadView {
    std::span<const int32_t> positions;  // in the input, ascending
    std::span<const int32_t> rotary;     // the RoPE positions their keys are turned to
    EntryRows rows;
};

/// The entries of one layer.
struct LayerView {
    int64_t layer = 0;
    const MemoryShape* shape = nullptr;
    std::vector<HeadView> heads;
    int64_t n_seen = 0;         // positions read so far
    int64_t next_position = 0;  // RoPE position of the next one
    float scale = 1.0F;         // of q . k
    float* scratch = nullptr;   // for the kernels, as attention_scratch_floats() says
};

/// A number for every entry of a layer: [KV head][entry].
using Scores = std::vector<std::vector<float>>;

}  // namespace palimpsest
