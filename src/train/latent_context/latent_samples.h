#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/random.h"
#include "core/types.h"
#include "text/tokenizer.h"

namespace palimpsest {

/// What latents are learnt from: a source that becomes latents, what stands around it in a prompt,
/// and what is to be said about it. Only `target` is learnt.
struct LatentSample {
    std::vector<TokenId> before;  // of the prompt, before the first tag
    std::vector<TokenId> source;  // in the encoder's tokens
    std::vector<TokenId> after;   // behind the last tag
    std::vector<TokenId> target;
};

/// Kinds of samples, by what is asked of a source.
enum class LatentTask {
    kRepeat,    // its text, word for word
    kContinue,  // what comes next, outside any template
    kFact,      // something that it says
};
inline constexpr int64_t kLatentTasks = 3;

struct LatentTexts {
    std::vector<std::string> learnt, held_out;
};

/// Documents of text files and of .jsonl files' "text" fields; every twentieth is held out. Throws
/// as read_corpus() does.
[[nodiscard]] LatentTexts read_latent_texts(std::span<const std::string> paths);

/// Makes samples of a model's own tokens, with its chat template around them.
class LatentSamples {
 public:
    /// `texts` must outlive it. Throws kInvalidArgument if there are none.
    LatentSamples(const Tokenizer& tokenizer, const std::vector<std::string>& texts);

    /// A source of exactly `n_source` tokens and at most `n_target` of what is said.
    [[nodiscard]] LatentSample make(LatentTask task, int64_t n_source, int64_t n_target,
                                    Random& random) const;
    /// So many tokens of the texts, from any place of them.
    [[nodiscard]] std::vector<TokenId> stretch(int64_t n, Random& random) const;

 private:
    [[nodiscard]] LatentSample in_chat(const std::string& question) const;
    [[nodiscard]] LatentSample fact(int64_t n_source, Random& random) const;

    const Tokenizer& tokenizer_;
    const std::vector<std::string>& texts_;
    std::vector<int64_t> ends_;  // of texts, laid end to end, in bytes
};

}  // namespace palimpsest
