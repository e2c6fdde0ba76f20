// chrF++ (M. Popovic, chrF++: words helping character n-grams, WMT 2017), by the definition of
// sacrebleu 2: n-grams of 1 to 6 characters, white space left out, and of 1 and 2 words, from which
// one mark of punctuation is parted at the end or else at the beginning. Precision and recall are
// each averaged over the orders that both texts have; of the two, F with beta 2. Case counts.
//
// Here every sentence has a score of its own, as sacrebleu's sentence_score gives it, and a report
// means over them. A corpus score adds up the counts of all sentences before it divides, so that
// long ones weigh more. ManyICLBench's own figures are neither: its evaluation passes references in
// a form by which sacrebleu (2.6.0) compares the first output with every reference, and the other
// outputs with none.
#include <algorithm>
#include <map>

#include "bench/tasks/metrics.h"
#include "bench/tasks/metrics_parts.h"
#include "text/text_parts.h"

namespace palimpsest {

namespace {

using Units = std::vector<std::string_view>;  // characters or words

/// A text as both kinds of units.
struct Sentence {
    Units characters, words;
};

/// Parts one mark of punctuation from a word.
void add_word(std::string_view word, Units& words) {
    if (word.size() > 1 && is_punctuation(word.back())) {
        words.push_back(word.substr(0, word.size() - 1));
        words.push_back(word.substr(word.size() - 1));
    } else if (word.size() > 1 && is_punctuation(word.front())) {
        words.push_back(word.substr(0, 1));
        words.push_back(word.substr(1));
    } else if (!word.empty()) {
        words.push_back(word);
    }
}

Sentence sentence_of(std::string_view text) {
    Sentence sentence;
    size_t begin = 0, end = 0;  // of a word
    for (const std::string_view character : characters_of(text)) {
        if (is_white(character)) {
            add_word(text.substr(begin, end - begin), sentence.words);
            begin = end + character.size();
        } else {
            sentence.characters.push_back(character);
        }
        end += character.size();
    }
    add_word(text.substr(begin), sentence.words);
    return sentence;
}

std::map<Units, int64_t> ngrams_of(const Units& units, size_t n) {
    std::map<Units, int64_t> counts;
    for (size_t i = 0; i + n <= units.size(); ++i) {
        const auto begin = units.begin() + static_cast<std::ptrdiff_t>(i);
        ++counts[Units(begin, begin + static_cast<std::ptrdiff_t>(n))];
    }
    return counts;
}

/// Sums over orders.
struct Agreement {
    double precision = 0, recall = 0, n_order = 0;
};

/// Adds the n-grams of one order, if both have some.
void add_order(const Units& written, const Units& wanted, size_t n, Agreement& to) {
    if (written.size() < n || wanted.size() < n) return;
    const std::map<Units, int64_t> found = ngrams_of(written, n);
    int64_t common = 0;
    for (const auto& [ngram, count] : ngrams_of(wanted, n)) {
        const auto it = found.find(ngram);
        if (it != found.end()) common += std::min(count, it->second);
    }
    to.precision += static_cast<double>(common) / static_cast<double>(written.size() - n + 1);
    to.recall += static_cast<double>(common) / static_cast<double>(wanted.size() - n + 1);
    to.n_order += 1;
}

double chrf(const Sentence& written, const Sentence& wanted) {
    constexpr size_t kCharacters = 6, kWords = 2;
    constexpr double kBetaSquared = 4;
    Agreement sums;
    for (size_t n = 1; n <= kCharacters; ++n) {
        add_order(written.characters, wanted.characters, n, sums);
    }
    for (size_t n = 1; n <= kWords; ++n) add_order(written.words, wanted.words, n, sums);
    if (sums.precision == 0 || sums.recall == 0) return 0;
    const double precision = sums.precision / sums.n_order, recall = sums.recall / sums.n_order;
    return (1 + kBetaSquared) * precision * recall / (kBetaSquared * precision + recall);
}

}  // namespace

double score_chrf(std::string_view output, const Sample& sample) {
    const Sentence written = sentence_of(strip(first_line(output)));
    return best_reference(sample, [&](const std::string& r) {
        return chrf(written, sentence_of(strip(first_line(r))));
    });
}

}  // namespace palimpsest
