#include "core/tensor_values.h"

#include <ggml.h>

#include <cstring>

#include "core/error.h"

namespace palimpsest {

std::vector<float> tensor_values(const GgufTensor& tensor) {
    size_t n = 1;
    for (const int64_t d : tensor.shape) n *= static_cast<size_t>(d);
    std::vector<float> values(n);
    if (tensor.type == GGML_TYPE_F32) {
        std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
        return values;
    }
    const ggml_to_float_t to_float = ggml_get_type_traits(tensor.type)->to_float;
    if (to_float == nullptr) {
        throw Error(ErrorCode::kUnsupported,
                    cat("tensor '", tensor.name, "' has type ", ggml_type_name(tensor.type),
                        ", which cannot be read as numbers"));
    }
    to_float(tensor.data.data(), values.data(), std::ssize(values));
    return values;
}

}  // namespace palimpsest
