#pragma once

#include <string>
#include <vector>

#include "bench/prefix/prefix_task.h"
#include "core/random.h"

namespace palimpsest {

// What the generated prefix tasks are written with.

/// `wording` with {city}, {day}, {name}, {thing} and {n} filled in.
std::string fill_slots(std::string wording, Random& random);

/// All that {thing} can be.
std::vector<std::string> shuffled_things(Random& random);

/// Tokens that `text` adds behind `before`: a border between words is no border between tokens.
int64_t added_tokens(const Tokenizer& tokenizer, const std::string& before,
                     const std::string& text);

/// Gives the task n labels: arbitrary words, with the space before them, one token each. Throws
/// kUnsupported if the vocabulary has too few.
void choose_labels(const Tokenizer& tokenizer, int64_t n, Random& random, PrefixTask& task);

}  // namespace palimpsest
