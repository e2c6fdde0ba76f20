#pragma once

#include "core/gguf_writer.h"

namespace palimpsest {

/// A vocabulary of kByteVocabulary tokens: token b is byte b, after them what begins, ends and
/// pads a text.
void set_byte_vocabulary(GgufWriter& to);

}  // namespace palimpsest
