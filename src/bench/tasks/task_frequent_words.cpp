// RULER's frequent words (Hsieh and others, 2024, arXiv:2404.06654, section 3): coded words whose
// counts follow a zeta law with alpha 2. The most frequent one is dots; the next three are asked
// for. The vocabulary has length / 50 words of six letters.
//
// Where we differ: instructions are our own, and stand on a line before the text; a length is
// refused that could leave a tie between the words of ranks 2 to 5.
#include <algorithm>
#include <numbers>
#include <unordered_set>

#include "bench/quality/fitting.h"
#include "bench/tasks/task_samples.h"
#include "core/error.h"
#include "text/text_parts.h"

namespace palimpsest {

namespace {

constexpr int64_t kAsked = 3;
// From so many words on, each rank up to 5 has a count of its own: 74 / zeta(2) is more than
// 1 / (1/16 - 1/25).
constexpr int64_t kLeastWords = 74;

std::string coded_word(Random& random) {
    std::string word;
    for (int i = 0; i < 6; ++i) word += static_cast<char>('a' + random.below(26));
    return word;
}

/// Rank by rank; the first is dots.
std::vector<std::string> vocabulary(int64_t n, Random& random) {
    std::vector<std::string> words = {"..."};
    std::unordered_set<std::string> seen;
    while (static_cast<int64_t>(words.size()) < n) {
        const std::string word = coded_word(random);
        if (seen.insert(word).second) words.push_back(word);
    }
    return words;
}

int64_t count_of(int64_t rank, int64_t n_word) {
    constexpr double kZeta2 = std::numbers::pi * std::numbers::pi / 6;
    const auto k = static_cast<double>(rank);
    return static_cast<int64_t>(static_cast<double>(n_word) / (k * k * kZeta2));
}

Sample question_on(const std::vector<std::string>& words, int64_t n_word, Random random) {
    std::vector<std::string> text;
    for (size_t i = 0; i < words.size(); ++i) {
        const int64_t n = count_of(static_cast<int64_t>(i) + 1, n_word);
        text.insert(text.end(), static_cast<size_t>(n), words[i]);
    }
    random.shuffle(text);
    Sample sample;
    sample.context = cat("Watch how often each coded word stands in this coded text, and find the ",
                         "three that stand most often.\n", join(text, " "), "\n");
    sample.question =
        "Question: What are the three most frequent words of the coded text above? "
        "Dots are not words. Give no explanation.";
    sample.answer_prefix = " Answer: The three words that stand most often in the coded text are:";
    sample.references = {words.begin() + 1, words.begin() + 1 + kAsked};
    sample.n_new = 50;
    sample.source = "RULER-style, generated";
    return sample;
}

}  // namespace

Samples frequent_word_samples(std::string_view task, const SampleRequest& request) {
    if (!request.sources.ready.empty()) return ready_samples(task, request, 50);
    return make_samples(task, request, [&](Random random) {
        const std::vector<std::string> words =
            vocabulary(std::max<int64_t>(request.length / 50, kAsked + 2), random);
        const Recipe recipe = [&](int64_t n) { return question_on(words, n, random); };
        return recipe(most_units(task, request, recipe, {.least = kLeastWords}));
    });
}

}  // namespace palimpsest
