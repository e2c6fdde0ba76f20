#pragma once

#include <cstdint>
#include <vector>

namespace palimpsest {

using TokenId = int32_t;

/// A run of consecutive positions: token ids, or ready rows of the embedding space.
struct Segment {
    std::vector<TokenId> tokens = {};  // n ids; empty when `rows` is used
    std::vector<float> rows = {};      // n * n_embd, row after row; empty when `tokens` is used
    bool is_context = false;           // may be compressed; false: a question, an instruction
    bool keep = false;                 // must never be forgotten
};

}  // namespace palimpsest
