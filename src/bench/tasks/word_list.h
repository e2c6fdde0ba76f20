#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/random.h"

namespace palimpsest {

// Plain English words. None stands in two lists, no adjective ends another, no noun begins another:
// so no adjective-noun pair is part of a different pair.
[[nodiscard]] const std::vector<std::string_view>& adjectives();
[[nodiscard]] const std::vector<std::string_view>& nouns();
[[nodiscard]] const std::vector<std::string_view>& verbs();

/// "quiet-anchor"
[[nodiscard]] std::string word_pair(Random& random);
[[nodiscard]] int64_t n_word_pairs();

/// Up to n different words in random order, all single ones before any pair; fewer if there are no
/// more.
[[nodiscard]] std::vector<std::string> distinct_words(int64_t n, Random& random);

}  // namespace palimpsest
