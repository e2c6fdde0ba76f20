#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/prefix_text.h"

namespace palimpsest {

/// A generated task whose answers are arbitrary words: all that a model can know of them stands in
/// the prefix. Prefix, traces, tests and validation share no prompt.
struct PrefixTask {
    struct Item {
        std::string prompt;  // ends where the label follows
        int64_t label = 0;
        bool is_traced = false;  // there are traces of its kind: of its intent, or of its rule
    };
    std::vector<std::string> labels;  // with the space before them; one token each
    std::vector<TokenId> label_tokens;
    std::vector<std::string> demonstrations;  // or rules: whatever the prefix consists of
    std::vector<TraceText> traces;
    std::vector<Item> tests;
    std::vector<Item> validation;  // as many: what choices are made by

    [[nodiscard]] std::string prefix() const;
};

struct PrefixTaskOptions {
    std::string name = "intents";
    uint64_t seed = 1;
    int64_t n_prefix_tokens = 2000;  // as many demonstrations as fit
    int64_t n_traces = 320, n_tests = 80;
    bool is_shuffled = false;  // labels in the prefix mean nothing: the control
    double traced = 1;         // share of intents or rules that traces come from
};

[[nodiscard]] std::vector<std::string> prefix_task_names();

/// The same for a seed everywhere. Throws kInvalidArgument for what cannot be made;
/// kUnsupported if the vocabulary has too few one-token words among ours.
PrefixTask make_prefix_task(const Tokenizer& tokenizer, const PrefixTaskOptions& options);

// The tasks, one file each, named in prefix_task.cpp.
PrefixTask make_intents_task(const Tokenizer& tokenizer, const PrefixTaskOptions& options);
PrefixTask make_rules_task(const Tokenizer& tokenizer, const PrefixTaskOptions& options);

/// Words that two texts share, as a share of the first one's: how near a demonstration is.
double word_overlap(const std::string& text, const std::string& other);

}  // namespace palimpsest
