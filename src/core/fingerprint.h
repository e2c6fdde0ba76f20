#pragma once

#include <string>

#include "core/gguf.h"

namespace palimpsest {

/// 16 hexadecimal digits that tell one model from another: a hash (FNV-1a, 64 bits) of every
/// tensor's name, type, shape and first 256 bytes. Against mistakes, not against malice; two
/// quantisations of one model differ.
[[nodiscard]] std::string model_fingerprint(const GgufFile& file);

}  // namespace palimpsest
