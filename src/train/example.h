#pragma once

#include <ggml.h>

#include <array>
#include <cstdint>
#include <vector>

namespace palimpsest {

/// Shares of all entries that are kept where training and its measures look at cuts.
inline constexpr std::array<double, 3> kCutShares = {0.5, 0.25, 0.1};

/// What a frozen model had of one document in one layer, position after position, f16. What was not
/// asked for is empty, and everything is in layers that evict nothing.
struct LayerExample {
    std::vector<ggml_fp16_t> hidden;    // [n][n_embd]: normed input of the attention block
    std::vector<ggml_fp16_t> q_raw, q;  // [n][n_head][d_head]: before RoPE, after it
    std::vector<ggml_fp16_t> k, v;      // [n][n_head_kv][d_head]; k after RoPE
    std::vector<float> scores;          // [n][n_head_kv]: what repeating the document needs, 0 to 1
};

/// What a frozen model had of one document that it read with full attention.
struct Example {
    int64_t n = 0;  // positions
    std::vector<LayerExample> layers;
    /// The least score among the best kCutShares of all entries of all layers and heads.
    std::array<float, kCutShares.size()> cuts{};
};

/// What of it an objective needs.
struct Captured {
    bool hidden = false, queries = false, entries = false, scores = false;
};

/// A run of positions of an example, to be learnt from.
struct Block {
    const Example* of = nullptr;
    int64_t begin = 0, n = 0;
};

}  // namespace palimpsest
