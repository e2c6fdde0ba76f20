#pragma once

#include <vector>

#include "memory/context_memory.h"
#include "memory/recurrent/state_kernel.h"

namespace palimpsest {

// How a node that runs states gets at a step's inputs.

/// Which of the inputs that need not be there are.
struct InputsThere {
    bool decay = false, write = false, skip = false;
};
[[nodiscard]] InputsThere inputs_there(const RecurrenceInputs& in);

/// q, k, v, and decay, write and skip where they are: a node's sources.
[[nodiscard]] std::vector<Tensor> sources_of(const RecurrenceInputs& in);
/// Throws kInternal for inputs of another shape than the layer's.
void check_inputs(const RecurrentLayer& shape, const RecurrenceInputs& in);

/// What one head reads of them, when the node runs.
[[nodiscard]] StateRun step_inputs(const ggml_tensor* node, const RecurrentLayer& shape,
                                   int64_t head, InputsThere there) noexcept;

}  // namespace palimpsest
