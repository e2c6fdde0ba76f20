#pragma once

#include <cstdint>
#include <vector>

namespace palimpsest {

using TokenId = int32_t;

/// A run of consecutive positions: token ids, or ready rows of the embedding space.
struct Segment {
    std::vector<TokenId> tokens = {};  // n ids; empty when `rows` is used
    std::vector<float> rows = {};      // n * n_embd, row after row; empty when `tokens` is used
    /// Of rows: the input tokens that they stand for, one row's after another's, and how many each
    /// row has. Both empty: rows stand for no text.
    std::vector<TokenId> row_tokens = {};
    std::vector<int32_t> row_lengths = {};
    bool is_context = false;  // may be compressed; false: a question, an instruction
    bool keep = false;        // must never be forgotten
};

}  // namespace palimpsest
