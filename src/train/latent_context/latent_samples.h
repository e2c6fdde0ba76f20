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
#include "train/material/material_facts.h"

namespace palimpsest {

/// What latents are learnt from: a prompt some parts of which become latents, and what is to be
/// said to it. Only `target` is learnt.
struct LatentSample {
    struct Part {
        std::vector<TokenId> tokens;
        bool is_source = false;  // becomes latents, between tags
    };
    std::vector<Part> prompt;
    std::vector<TokenId> target;

    /// Tokens that become latents.
    [[nodiscard]] int64_t n_source() const;
};

/// Kinds of samples, by what is asked of a source.
enum class LatentTask {
    kRepeat,    // its text, word for word
    kContinue,  // what comes next, outside any template
    kFact,      // something that it says
    kExpand,    // in chunks, one a window: which of them to expand, or the answer once it was
};
inline constexpr int64_t kLatentTasks = 4;

/// How much of it there is.
struct LatentSizes {
    int64_t n_window = 128;  // tokens of a window
    int64_t n_windows = 1;   // that a sample's sources come to
    int64_t n_target = 128;  // most tokens that are said
    int64_t ratio = 4;       // tokens in a latent
};

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

    /// Sources of exactly so many windows.
    [[nodiscard]] LatentSample make(LatentTask task, const LatentSizes& sizes,
                                    Random& random) const;
    /// So many tokens of the texts, from any place of them.
    [[nodiscard]] std::vector<TokenId> stretch(int64_t n, Random& random) const;

 private:
    /// What is said in turn, the user first and last. Documents become the sources, in order.
    [[nodiscard]] LatentSample in_chat(std::vector<ChatMessage> messages,
                                       std::vector<std::vector<TokenId>> sources) const;
    [[nodiscard]] std::vector<TokenId> tokens_of(const Fact& fact) const;
    [[nodiscard]] LatentSample repeat(int64_t n_source, Random& random) const;
    [[nodiscard]] LatentSample go_on(int64_t n_source, int64_t n_target, Random& random) const;
    [[nodiscard]] LatentSample fact(int64_t n_source, Random& random) const;
    [[nodiscard]] LatentSample expand(const LatentSizes& sizes, Random& random) const;

    const Tokenizer& tokenizer_;
    const std::vector<std::string>& texts_;
    std::vector<int64_t> ends_;  // of texts, laid end to end, in bytes
};

}  // namespace palimpsest
