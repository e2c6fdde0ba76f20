// RULER's common words (Hsieh and others, 2024, arXiv:2404.06654, section 3): ten words stand more
// often than the rest in a numbered list. One worked example stands in front. From 4096 tokens on
// a common word stands 30 times and another 3 times (10 and 3 in the example of 40 words), below
// that 6 times and once (3 and once in the example of 20).
//
// Where we differ: instructions and words are our own; where single words run out, adjective-noun
// pairs follow, instead of a dictionary's words.
#include "bench/quality/fitting.h"
#include "bench/tasks/task_samples.h"
#include "bench/tasks/word_list.h"
#include "core/error.h"

namespace palimpsest {

namespace {

constexpr int64_t kCommon = 10;

struct Repeats {
    int64_t common = 0, rest = 0;
};

std::string numbered(const std::vector<std::string>& words) {
    std::string text;
    for (size_t i = 0; i < words.size(); ++i) text += cat(i > 0 ? " " : "", i + 1, ". ", words[i]);
    return text;
}

/// A question on the first n of `words`, of which the first ten are common.
Sample question_on(const std::vector<std::string>& words, int64_t n, Repeats repeats,
                   Random random) {
    std::vector<std::string> list;
    for (int64_t i = 0; i < n; ++i) {
        const int64_t times = i < kCommon ? repeats.common : repeats.rest;
        list.insert(list.end(), static_cast<size_t>(times), words[static_cast<size_t>(i)]);
    }
    random.shuffle(list);
    Sample sample;
    sample.context =
        cat("Some words of this numbered list stand in it more often than the others. ",
            "Remember those that stand most often.\n", numbered(list), "\n");
    sample.question = "Question: What are the 10 most frequent words of the list above?";
    sample.answer_prefix = " Answer: The 10 words that stand most often in the list are:";
    sample.references = {words.begin(), words.begin() + kCommon};
    sample.n_new = 120;
    sample.source = "RULER-style, generated";
    return sample;
}

std::string worked_example(bool is_long, Random random) {
    const int64_t n = is_long ? 40 : 20;
    const std::vector<std::string> words = distinct_words(n, random);
    const Sample sample = question_on(words, n, is_long ? Repeats{10, 3} : Repeats{3, 1}, random);
    return cat(sample.context, sample.question, sample.answer_prefix, " ",
               numbered(sample.references), "\n");
}

}  // namespace

Samples common_word_samples(std::string_view task, const SampleRequest& request) {
    if (!request.sources.ready.empty()) return ready_samples(task, request, 120);
    const bool is_long = request.length >= 4096;
    return make_samples(task, request, [&](Random random) {
        const std::string example = worked_example(is_long, Random(random.next()));
        // A word takes a token or more, so there need not be more words.
        const std::vector<std::string> words =
            distinct_words(std::max(request.length, kCommon + 1), random);
        const Recipe recipe = [&](int64_t n) {
            Sample sample = question_on(words, n, is_long ? Repeats{30, 3} : Repeats{6, 1}, random);
            sample.context.insert(0, example);
            return sample;
        };
        const auto most = static_cast<int64_t>(words.size());
        return recipe(most_units(task, request, recipe, {.least = kCommon + 1, .most = most}));
    });
}

}  // namespace palimpsest
