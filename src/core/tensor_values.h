#pragma once

#include <vector>

#include "core/gguf.h"

namespace palimpsest {

/// All numbers of a tensor as f32, in its order. Throws kUnsupported, naming it, for a type that
/// ggml cannot turn into numbers.
[[nodiscard]] std::vector<float> tensor_values(const GgufTensor& tensor);

}  // namespace palimpsest
