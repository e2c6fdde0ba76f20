// RULER's variable tracking (Hsieh and others, 2024, arXiv:2404.06654, section 3): a chain of
// assignments in noise, whose variables all hold the first one's value. One worked example stands
// in front.
//
// Where we differ: instructions are in our own words; the last line of noise may hold fewer than
// five sentences, so that lengths are kept; the example takes at most a quarter of the length, 500
// tokens as in the original from 2,000 on.
#include <algorithm>
#include <set>

#include "bench/quality/fitting.h"
#include "bench/tasks/haystack.h"
#include "bench/tasks/task_samples.h"
#include "core/error.h"
#include "text/text_parts.h"

namespace palimpsest {

namespace {

constexpr int64_t kHops = 4;
constexpr int64_t kVariables = kHops + 1;
// A line of five for each variable, the last one begun.
constexpr int64_t kLeastSentences = 5 * kVariables - 4;

std::string capitals(int64_t n, Random& random) {
    std::string name;
    for (int64_t i = 0; i < n; ++i) name += static_cast<char>('A' + random.below(26));
    return name;
}

struct Chain {
    std::vector<std::string> names;
    std::string value;
};

Chain random_chain(int64_t n_letter, Random& random) {
    Chain chain;
    while (static_cast<int64_t>(chain.names.size()) < kVariables) {
        const std::string name = capitals(n_letter, random);
        if (std::ranges::find(chain.names, name) == chain.names.end()) chain.names.push_back(name);
    }
    chain.value = std::to_string(10'000 + random.below(90'000));
    return chain;
}

/// The chain's assignments among so many sentences of noise; positions are drawn anew from a copy.
std::string chain_in_noise(const Chain& chain, int64_t n_sentence, Random random) {
    Insertion insertion;
    for (size_t i = 0; i < chain.names.size(); ++i) {
        insertion.lines.push_back(i == 0
                                      ? cat("VAR ", chain.names[0], " = ", chain.value)
                                      : cat("VAR ", chain.names[i], " = VAR ", chain.names[i - 1]));
    }
    const std::vector<std::string> lines = noise_lines(n_sentence);
    insertion.places = random.sample(static_cast<int64_t>(lines.size()), kVariables);
    std::ranges::sort(insertion.places);
    return join(insert_lines(lines, insertion), "\n");
}

Sample question_on(const Chain& chain, const std::string& text) {
    Sample sample;
    sample.context =
        cat("Follow the chain of variable assignments that is hidden in this text and remember it.",
            "\n\n", text, "\n");
    sample.question =
        cat("Question: Which variables hold the value ", chain.value, " in the text above?");
    sample.answer_prefix = cat(" Answer: By the chain of assignments in the text above, ",
                               kVariables, " variables hold the value ", chain.value, ", namely:");
    sample.references = chain.names;
    sample.n_new = 30;
    sample.source = "RULER-style, generated";
    return sample;
}

/// A solved question of about as many tokens.
std::string worked_example(const SampleRequest& request, Random random) {
    const Chain chain = random_chain(3, random);
    const auto example = [&](int64_t n) {
        Sample sample = question_on(chain, chain_in_noise(chain, n, random));
        sample.n_new = 0;
        sample.answer_prefix += " " + join(chain.names, " ");
        return sample;
    };
    const int64_t room = std::min<int64_t>(500, request.length / 4);
    int64_t n = kLeastSentences;
    while (n < room && request.count_tokens(example(n + 5)) <= room) n += 5;
    const Sample sample = example(n);
    return cat(sample.context, sample.question, sample.answer_prefix, "\n\n");
}

}  // namespace

Samples variable_samples(std::string_view task, const SampleRequest& request) {
    if (!request.sources.ready.empty()) return ready_samples(task, request, 30);
    return make_samples(task, request, [&](Random random) {
        const Chain chain = random_chain(5, random);
        const std::string example = worked_example(request, Random(random.next()));
        const Recipe recipe = [&](int64_t n) {
            Sample sample = question_on(chain, chain_in_noise(chain, n, random));
            sample.context.insert(0, example);
            return sample;
        };
        return recipe(most_units(task, request, recipe, {.least = kLeastSentences}));
    });
}

}  // namespace palimpsest
