#pragma once

#include <llama-cpp.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/types.h"

namespace palimpsest {

struct SamplingOptions {
    float temperature = 0.0F;        // 0: always the most likely token
    int32_t top_k = 40;              // 0: no limit
    float top_p = 0.95F;             // (0, 1]; 1: no limit
    float min_p = 0.05F;             // [0, 1); 0: no limit
    float repeat_penalty = 1.0F;     // > 0; 1: none
    float frequency_penalty = 0.0F;  // 0: none
    float presence_penalty = 0.0F;   // 0: none
    int32_t penalty_last_n = 64;     // tokens the penalties look back on
    uint32_t seed = 0;               // the same seed gives the same text
    std::string grammar = {};        // GBNF that the answer must follow; empty: none
};

/// Picks tokens, over libllama's chain: penalties, grammar, top-k, top-p, min-p, temperature, draw.
/// Holds no model; remembers the tokens it picked, for penalties and grammar.
class Sampler {
 public:
    /// `vocab` must outlive the sampler; nullptr for a model without one (then no grammar).
    /// Throws kInvalidArgument if an option is outside its range or the grammar is not GBNF.
    Sampler(const SamplingOptions& options, int64_t n_vocab, const llama_vocab* vocab);

    /// logits: one value a vocabulary entry.
    TokenId pick(std::span<const float> logits);

 private:
    bool is_argmax_;  // nothing but the most likely token is asked for
    llama_sampler_ptr chain_;
    std::vector<llama_token_data> candidates_;
};

}  // namespace palimpsest
