// Needle grid (after G. Kamradt's "needle in a haystack", 2023): one needle at each of many depths,
// n random ones a depth, numbers and UUIDs in turn, judged by exact match. As there, a needle moves
// back to the end of the sentence before it. A single fixed needle would over-read luck.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "bench/quality/fitting.h"
#include "bench/tasks/haystack.h"
#include "bench/tasks/needles.h"
#include "bench/tasks/task_samples.h"
#include "core/error.h"
#include "text/text_parts.h"

namespace palimpsest {

namespace {

std::vector<double> depths_of(std::string_view task, const SampleRequest& request) {
    std::vector<double> depths = request.depths;
    for (const double depth : depths) {
        require(depth >= 0 && depth <= 1, "task '", task, "': a depth of ", depth,
                "; depths go from 0 to 1");
    }
    for (int i = 0; request.depths.empty() && i <= 10; ++i) depths.push_back(i / 10.0);
    return depths;
}

/// The sentence before which a needle at this depth stands.
size_t place_at(const std::vector<std::string>& sentences, double depth) {
    size_t total = 0;
    for (const std::string& sentence : sentences) total += sentence.size() + 1;
    const double wanted = depth * static_cast<double>(total);
    size_t before = 0, place = 0;
    while (place < sentences.size()) {
        before += sentences[place].size() + 1;
        if (static_cast<double>(before) > wanted) break;
        ++place;
    }
    return place;
}

struct Cell {
    double depth = 0;
    NeedleText kind = NeedleText::kNumber;
};

Sample grid_sample(std::string_view task, const SampleRequest& request, const Haystack& haystack,
                   const Cell& cell, Random random) {
    NeedleTexts texts(random, [&](std::string_view text) { return haystack.contains(text); });
    const std::string key = texts.next(NeedleText::kWords), value = texts.next(cell.kind);
    const std::string needle = needle_sentence(cell.kind, key, value);
    Sample frame = needle_question(cell.kind, {key}, true);
    frame.references = {value};
    frame.depth = cell.depth;
    frame.n_new = 64;
    const Recipe recipe = [&](int64_t n_word) {
        Sample sample = frame;
        std::vector<std::string> sentences = haystack.sentences(n_word);
        const size_t place = place_at(sentences, cell.depth);
        sentences.insert(sentences.begin() + static_cast<std::ptrdiff_t>(place), needle);
        sample.context += join(sentences, " ") + "\n";
        sample.source = cat("needle grid, generated; ", haystack.source(n_word));
        return sample;
    };
    return recipe(most_units(task, request, recipe));
}

}  // namespace

Samples grid_samples(std::string_view task, const SampleRequest& request) {
    check_request(task, request);
    const std::string& file = request.sources.haystack;
    const Haystack haystack = file.empty() ? Haystack::noise() : Haystack::from_file(file);
    Samples samples;
    int64_t index = 0;
    for (const double depth : depths_of(task, request)) {
        for (int64_t i = 0; i < request.n; ++i) {
            const NeedleText kind = i % 2 == 0 ? NeedleText::kNumber : NeedleText::kUuid;
            const Random random = sample_random(task, request, index++);
            samples.push_back(grid_sample(task, request, haystack, {depth, kind}, random));
            samples.back().id = cat(depth, "/", i);
        }
    }
    return samples;
}

}  // namespace palimpsest
