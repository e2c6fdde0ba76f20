#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/gguf.h"

namespace palimpsest {

/// One tensor that is learnt, row after row, and the gradient of the loss in it.
struct Parameter {
    std::string name;                  // as in the sidecar
    Shape shape = {1, 1, 1, 1};        // ggml order
    ggml_type stored = GGML_TYPE_F32;  // how the sidecar stores it: f32 or f16
    std::vector<float> value = {}, gradient = {};
};

using Parameters = std::vector<Parameter>;

/// Adds one of zeros; returns its place.
size_t add_parameter(Parameters& to, const std::string& name, const Shape& shape, ggml_type stored);

void clear_gradients(Parameters& of);

/// Length of all gradients together, as one vector.
[[nodiscard]] double gradient_norm(const Parameters& of);

}  // namespace palimpsest
