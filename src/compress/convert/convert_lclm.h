#pragma once

#include <cstddef>
#include <functional>
#include <string>

#include "compress/compression_form.h"

namespace palimpsest {

struct ConvertOptions {
    std::string type = "f32";  // of matrices: f32, f16 or q8_0
    /// After every tensor: bytes of the checkpoint read, and in all. Returning false stops.
    std::function<bool(size_t done, size_t total)> on_progress = {};
};

/// What a conversion wrote.
struct Converted {
    std::string encoder, decoder, adapter;  // files
    CompressionForm form;
    size_t bytes_read = 0, bytes_written = 0;
};

/// The files' places in a folder, which is made if need be. Throws kUnwritable.
[[nodiscard]] Converted converted_in(const std::string& folder);
/// Of the files, as they are now.
[[nodiscard]] size_t written_bytes(const Converted& files);

/// Turns a checkpoint of latent context in its published layout (model_config.json; encoder/,
/// decoder/ and adapter/, or the names that these had before) into `encoder.gguf`, `decoder.gguf`
/// and `adapter.gguf` in a folder, which is made if need be. Tensor by tensor, a few rows at a
/// time: no model is ever held. Throws kNotFound, kCorrupt and kUnsupported, naming what is wrong
/// with the checkpoint; kUnwritable; kExhausted if it was stopped, with no file changed that was
/// not complete.
Converted convert_lclm(const std::string& checkpoint, const std::string& folder,
                       const ConvertOptions& options);

}  // namespace palimpsest
