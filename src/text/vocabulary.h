#pragma once

#include <llama-cpp.h>

#include <string>

#include "core/gguf.h"

namespace palimpsest {

/// Is there one in the file? Without, its model runs from ids.
[[nodiscard]] bool has_vocabulary(const GgufFile& file);

/// The vocabulary of the file at `path`, whose checked content is `file`, as libllama reads it; it
/// puts no space before texts by itself (begins_with_space()). What libllama would end the process
/// for is checked first. Throws kCorrupt if the vocabulary contradicts itself, kUnsupported, with
/// libllama's reason, if that refuses it.
[[nodiscard]] llama_model_ptr load_vocabulary(const std::string& path, const GgufFile& file);

/// Does a text begin with a space, and what follows a special token?
[[nodiscard]] bool begins_with_space(const llama_vocab* vocab, const GgufFile& file);

/// "BPE", "SPM" and so on, and the file's own name for it ("gpt2 / smollm").
[[nodiscard]] std::string vocabulary_kind(const llama_vocab* vocab, const GgufFile& file);

}  // namespace palimpsest
