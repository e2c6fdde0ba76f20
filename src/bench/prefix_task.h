#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/prefix_text.h"

namespace palimpsest {

/// A generated classification task whose labels are arbitrary words: all that a model can know of
/// them stands in the prefix. Text, demonstrations, traces and tests share no sentence.
struct PrefixTask {
    struct Item {
        std::string prompt;  // ends where the label follows
        int64_t label = 0;
        bool is_seen = false;  // its wording occurs in the prefix, with other names in it
    };
    std::vector<std::string> labels;  // with the space before them; one token each
    std::vector<TokenId> label_tokens;
    std::vector<std::string> demonstrations;
    std::vector<TraceText> traces;
    std::vector<Item> tests;

    [[nodiscard]] std::string prefix() const;
};

struct PrefixTaskOptions {
    uint64_t seed = 1;
    int64_t n_prefix_tokens = 2000;  // as many demonstrations as fit
    int64_t n_traces = 320, n_tests = 80;
    bool is_shuffled = false;  // labels of demonstrations mean nothing: the control
    int64_t n_traced = 16;     // intents that traces come from: fewer than all is a shifted run
};

/// Throws kUnsupported if the vocabulary has too few one-token words among ours.
PrefixTask make_prefix_task(const Tokenizer& tokenizer, const PrefixTaskOptions& options);

/// Words that two texts share, as a share of the first one's: how near a demonstration is.
double word_overlap(const std::string& text, const std::string& other);

}  // namespace palimpsest
