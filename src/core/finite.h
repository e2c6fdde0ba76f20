#pragma once

#include <cstdint>
#include <span>

#include "core/gguf.h"

namespace palimpsest {

/// Is no number of a tensor NaN or infinite? Of quantised types the scales say so. Reads the whole
/// tensor, on so many threads if it is large: as fast as memory is read, or the disk.
[[nodiscard]] bool is_finite(const GgufTensor& tensor, int64_t n_threads);

[[nodiscard]] bool is_finite(std::span<const float> numbers);

}  // namespace palimpsest
