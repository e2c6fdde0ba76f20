#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "bench/tasks/task.h"
#include "core/random.h"

namespace palimpsest {

enum class NeedleText { kWords, kNumber, kUuid };

/// Seven digits, the first not 0.
[[nodiscard]] std::string random_number(Random& random);
/// Version 4, lower case.
[[nodiscard]] std::string random_uuid(Random& random);

/// Gives keys and values, none twice and none that a haystack holds.
class NeedleTexts {
 public:
    using Contains = std::function<bool(std::string_view)>;

    NeedleTexts(Random random, Contains haystack_contains)
        : random_(random), haystack_contains_(std::move(haystack_contains)) {}

    /// Throws kInvalidArgument when there are no more word pairs.
    std::string next(NeedleText kind);

 private:
    Random random_;
    Contains haystack_contains_;
    std::unordered_set<std::string> given_;
    int64_t n_pairs_ = 0;
};

/// RULER's sentence.
[[nodiscard]] std::string needle_sentence(NeedleText kind, std::string_view key,
                                          std::string_view value);

/// Everything of a sample but its haystack, which is to stand behind the context that this gives.
/// `is_one`: exactly one answer is due.
[[nodiscard]] Sample needle_question(NeedleText kind, const std::vector<std::string>& keys,
                                     bool is_one);

}  // namespace palimpsest
