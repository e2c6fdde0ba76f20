#pragma once

#include <string>
#include <string_view>

#include "compress/convert/convert_lclm.h"

namespace palimpsest {

// What a training of latent context changed of one model, without the model: a file of a few
// megabytes. Each matrix W that was learnt has two thin ones, of `rank` rows each (Hu et al., 2021,
// arXiv:2106.09685): W + up^T down, with "PART.MATRIX.down" [n_in, rank] and "PART.MATRIX.up"
// [n_out, rank], such as "encoder.blk.0.attn_q.up". The encoder is made of the model's first
// layers. The adapter's keys and tensors are as in adapter.gguf.

inline constexpr std::string_view kThinAdditions = "lclm-additions";    // general.architecture
inline constexpr const char* kAdditionsModel = "lclm.additions.model";  // fingerprint
inline constexpr const char* kAdditionsLayers = "lclm.additions.encoder_layers";

/// Turns such a file and the model that it was trained on into `encoder.gguf`, `decoder.gguf` and
/// `adapter.gguf` in a folder, one matrix at a time. What was not learnt stays as the model has it.
/// Throws kInvalidArgument for another model, kCorrupt for additions that do not fit it, and as
/// convert_lclm() does.
Converted merge_additions(const std::string& additions, const std::string& model,
                          const std::string& folder, const ConvertOptions& options);

}  // namespace palimpsest
