#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "memory/context_memory.h"

namespace palimpsest {

/// One query head's part in an answer: changes `out` [d_head], which is attention's, by what else
/// is read with `q` [d_head]. Called by several threads at once; must not throw.
struct AnswerChange {
    int64_t n_scratch = 0;  // floats of a thread's own that a call may use
    std::function<void(int64_t head, int64_t token, const float* q, float* out,
                       std::span<float> scratch)>
        change;
};

/// A node [d_head * n_head, n]: `attended` of the same shape, changed for each rotated query of
/// `in`. What `how` refers to must outlive the graph.
Tensor change_answers(Graph& g, const MemoryShape& shape, const AttentionInputs& in,
                      Tensor attended, AnswerChange how);

}  // namespace palimpsest
