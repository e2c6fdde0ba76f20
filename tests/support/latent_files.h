#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "support/gguf_builder.h"
#include "support/golden.h"

namespace palimpsest::testing {

/// An adapter between two models of kTinyWidth, random and complete.
struct TinyAdapterOptions {
    uint32_t ratio = 4, window = 32, overlap = 0;
    std::string pooling = "mean", mask = "causal", type = "mlp";
    uint32_t n_layer = 0;     // that attend
    bool has_tokens = false;  // for its tags, in the vocabulary; false: rows of its own
};

/// The fields of its file, so that a test can lie in them.
GgufBuilder tiny_adapter(const TinyAdapterOptions& options = {});

/// Thin additions of rank 2 to every query matrix and, of the decoder, every key matrix of a tiny
/// Llama with `n_layer` layers, whose file `model` is; an encoder of one layer. The file's bytes,
/// once `change` has changed its fields.
std::string tiny_additions_bytes(const std::string& model, int64_t n_layer,
                                 const std::function<void(GgufBuilder&)>& change = {});

/// Writes a checkpoint of latent context in its published layout into `folder`: models of one
/// layer, with a vocabulary. Returns the checkpoint's folder.
std::string write_tiny_checkpoint(TemporaryFolder& folder, const std::string& name);

}  // namespace palimpsest::testing
