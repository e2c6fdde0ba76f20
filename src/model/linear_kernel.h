#pragma once

#include <cstdint>

namespace palimpsest {

/// What a gated feed-forward multiplies its second half by.
enum class Gating { kSilu, kGelu };  // x * sigmoid(x); gelu in its tanh form

// Element by element, at the widest vectors the processor has. bf16 values are rounded to the
// nearest, ties to even.

/// to[i] = from[i]
void round_to_bf16(const float* from, int64_t n, uint16_t* to);

/// to[i] = f(gate[i]) * up[i]
void gate_to_bf16(Gating f, const float* gate, const float* up, int64_t n, uint16_t* to);
void gate_to_f32(Gating f, const float* gate, const float* up, int64_t n, float* to);

}  // namespace palimpsest
