#pragma once

#include <llama-cpp.h>

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <utility>
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

    /// logits: one value a row of the token table. Rows that the vocabulary does not have, or that
    /// only fill it up, are never picked. Throws kInvalidArgument if the grammar allows no token.
    TokenId pick(std::span<const float> logits);

 private:
    void set_up(const SamplingOptions& options, int64_t n_vocab, const llama_vocab* vocab);
    [[nodiscard]] TokenId likeliest(std::span<const float> logits) const;
    void fill_candidates(std::span<const float> logits);
    void drop_forbidden();
    void accept(TokenId token);
    void look_for_trigger(TokenId token);

    bool is_argmax_;              // nothing but the most likely token is asked for
    std::vector<TokenId> never_;  // never picked, in order
    size_t n_known_;              // rows from here on are no tokens
    /// A grammar that does not hold yet.
    struct Waiting {
        SamplingOptions options = {};
        const llama_vocab* vocab = nullptr;
        size_t n_bytes = 0;                                     // written so far
        std::deque<std::pair<TokenId, std::string>> tail = {};  // the last tokens, and their bytes
    };
    std::optional<Waiting> waiting_;
    llama_sampler_ptr grammar_, chain_;
    std::vector<llama_token_data> candidates_;
};

}  // namespace palimpsest
