#pragma once

#include <llama-cpp.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/types.h"
#include "palimpsest/generation.h"

namespace palimpsest {

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
