#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "compress/latent_regions.h"
#include "core/types.h"

namespace palimpsest {

/// The ids in a JSON array, each from 0 to n_vocab - 1. `where` names it in messages. Throws
/// kCorrupt.
[[nodiscard]] std::vector<TokenId> token_ids(const nlohmann::json& json, int64_t n_vocab,
                                             const std::string& where);

/// A prompt of ids that are read as they are and of ids that become latents.
struct TraceParts {
    std::vector<Segment> prompt;
    std::vector<std::vector<TokenId>> regions;  // the encoder's tokens of each
};

/// Reads a JSON list of {"text": [ids]} and {"region": [ids]}. Throws kCorrupt.
[[nodiscard]] TraceParts read_trace_parts(const std::string& path, const LatentRegions& regions,
                                          int64_t n_vocab);

}  // namespace palimpsest
