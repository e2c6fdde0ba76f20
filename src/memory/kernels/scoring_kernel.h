#pragma once

#include <cstdint>
#include <span>

#include "memory/kernels/attention_kernel.h"

namespace palimpsest {

// What eviction policies ask of a head's entries, tile by tile: never a whole attention matrix.
// Same vectors, entry types and scratch memory (attention_scratch_floats) as attend_rows().

/// How the weights that several queries pay to one entry are put together.
enum class Reduce { kSum, kMax };

/// Writes each row's lse: natural log of the sum of exp(scaled logits) over the slots it sees, and
/// -inf if it sees none. At most kMaxRows rows; rows' `out` are not looked at.
void sum_logits(const EntryRows& entries, std::span<const QueryRow> rows, float scale,
                float* scratch);

/// Where weights go: of[t - slots.begin], added or the largest kept.
struct Mass {
    float* of = nullptr;
    Reduce reduce = Reduce::kSum;
};

/// Puts the softmax weight that each row pays to each of `slots` into `mass`. Rows' lse must be
/// set, and their `out` are not looked at. At most kMaxRows rows.
void add_mass(const EntryRows& entries, std::span<const QueryRow> rows, SlotRange slots,
              float scale, Mass mass, float* scratch);

/// out[(t - slots.begin) * n_rows + r] = key t . row r, for `rows` of entries.d f32 values each.
/// (For values instead of keys, hand them in as `k`.)
void multiply_keys(const EntryRows& entries, SlotRange slots, std::span<const float> rows,
                   float* out, float* scratch);

/// Keys (or values, handed in as `k`) of slots [first, first + n) as f32: out[n][d].
void read_keys(const EntryRows& entries, int64_t first, int64_t n, float* out);

}  // namespace palimpsest
