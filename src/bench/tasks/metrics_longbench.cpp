// LongBench's measures (Bai and others, 2023, arXiv:2308.14508), as its evaluation computes them.
//
// ROUGE-L is that of the Python package `rouge` 1.0: texts are split at full stops, and the F1 is
// of *sets* of words: those in a longest common subsequence of any pair of sentences, against those
// in either text. The original scores 0 where a sentence is too long for Python's recursion; we do
// not.
//
// Chinese texts have no spaces. The original cuts them into words with the package `jieba` and its
// dictionary, which we do not carry: to us every character that is not ASCII is a word, and so is a
// run of ASCII letters and digits. That asks for less than whole words, so scores come out higher
// as a rule; the names, f1-chars and rouge-l-chars, say that they are not the original's. F1 is
// normalised as there (lower case, no punctuation), ROUGE-L, as there, is not.
//
// Edit similarity is `fuzz.ratio` with its fast backend: 2 * LCS / (both lengths), in whole
// percent; by bytes, where the original compares characters.
#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "bench/tasks/metrics.h"
#include "bench/tasks/metrics_parts.h"
#include "text/text_parts.h"

namespace palimpsest {

namespace {

/// SQuAD's normalisation: lower case, no punctuation, no articles, words.
std::vector<std::string> normal_words(std::string_view text) {
    std::string plain = lower_case(text);
    std::erase_if(plain, is_punctuation);
    std::vector<std::string> words;
    for (const std::string_view word : split_words(plain)) {
        if (word != "a" && word != "an" && word != "the") words.emplace_back(word);
    }
    return words;
}

/// The original's Chinese punctuation: it has U+300B, which closes a title, but not U+300A.
bool is_chinese_punctuation(std::string_view character) {
    constexpr std::array<std::pair<char32_t, char32_t>, 15> kRanges = {{{0x2013, 0x2014},
                                                                        {0x2018, 0x2019},
                                                                        {0x201b, 0x201f},
                                                                        {0x2026, 0x2027},
                                                                        {0x3001, 0x3003},
                                                                        {0x300b, 0x3011},
                                                                        {0x3014, 0x301f},
                                                                        {0x3030, 0x3030},
                                                                        {0x303e, 0x303f},
                                                                        {0xfe4f, 0xfe4f},
                                                                        {0xff01, 0xff0d},
                                                                        {0xff0f, 0xff0f},
                                                                        {0xff1a, 0xff20},
                                                                        {0xff3b, 0xff40},
                                                                        {0xff5b, 0xff64}}};
    const char32_t c = code_point(character);
    return std::ranges::any_of(
        kRanges, [&](const auto& range) { return c >= range.first && c <= range.second; });
}

/// Lower case, no punctuation of either kind, characters as words.
std::vector<std::string> normal_characters(std::string_view text) {
    std::vector<std::string> words;
    const std::string lower = lower_case(text);
    for (const std::string_view word : words_by_character(lower)) {
        if (!is_punctuation(word[0]) && !is_chinese_punctuation(word)) words.emplace_back(word);
    }
    return words;
}

double f1(const std::vector<std::string>& written, const std::vector<std::string>& wanted) {
    std::map<std::string, int64_t> left;
    for (const std::string& word : wanted) ++left[word];
    int64_t common = 0;
    for (const std::string& word : written) {
        const auto it = left.find(word);
        if (it == left.end() || it->second == 0) continue;
        --it->second;
        ++common;
    }
    if (common == 0) return 0;
    const double precision = static_cast<double>(common) / static_cast<double>(written.size());
    const double recall = static_cast<double>(common) / static_cast<double>(wanted.size());
    return 2 * precision * recall / (precision + recall);
}

using Words = std::vector<std::string_view>;

/// A sentence of white space only is one empty word, as in the original.
std::vector<Words> sentences_of(std::string_view text) {
    std::vector<Words> sentences;
    size_t at = 0;
    while (at <= text.size()) {
        const size_t stop = std::min(text.find('.', at), text.size());
        if (stop > at) {
            sentences.push_back(split_words(text.substr(at, stop - at)));
            if (sentences.back().empty()) sentences.back().emplace_back();
        }
        at = stop + 1;
    }
    return sentences;
}

/// Adds the words of a longest common subsequence, the original's where there are several.
void add_common_subsequence(const Words& x, const Words& y, std::set<std::string_view>& into) {
    const size_t width = y.size() + 1;
    std::vector<uint32_t> length((x.size() + 1) * width, 0);
    for (size_t i = 1; i <= x.size(); ++i) {
        for (size_t j = 1; j <= y.size(); ++j) {
            const size_t at = i * width + j;
            length[at] = x[i - 1] == y[j - 1] ? length[at - width - 1] + 1
                                              : std::max(length[at - width], length[at - 1]);
        }
    }
    size_t i = x.size(), j = y.size();
    while (i > 0 && j > 0) {
        const size_t at = i * width + j;
        if (x[i - 1] == y[j - 1]) {
            into.insert(x[i - 1]);
            --i, --j;
        } else if (length[at - width] > length[at - 1]) {
            --i;
        } else {
            --j;
        }
    }
}

double rouge_l(std::string_view output, std::string_view reference) {
    const std::vector<Words> written = sentences_of(output), wanted = sentences_of(reference);
    if (written.empty() || wanted.empty()) return 0;
    std::set<std::string_view> written_words, wanted_words, common;
    for (const Words& sentence : written) written_words.insert(sentence.begin(), sentence.end());
    for (const Words& sentence : wanted) {
        wanted_words.insert(sentence.begin(), sentence.end());
        for (const Words& other : written) add_common_subsequence(sentence, other, common);
    }
    const auto n = static_cast<double>(common.size());
    const double recall = n / static_cast<double>(wanted_words.size());
    const double precision = n / static_cast<double>(written_words.size());
    return 2 * precision * recall / (precision + recall + 1e-8);
}

/// A text with spaces between what stands for its words; as in the original, punctuation stays.
std::string spaced(std::string_view text) {
    std::string out;
    for (const std::string_view word : words_by_character(text)) {
        if (!out.empty()) out += ' ';
        out += word;
    }
    return out;
}

/// 1 / (classes named) if the right one is among them. A class whose name is part of the
/// reference's is taken out first, in the original's way, which after each looks past the next.
double classes(std::string_view output, const Sample& sample, const std::string& reference) {
    std::vector<std::string> named;
    for (const std::string& name : sample.classes) {
        if (output.find(name) != std::string_view::npos) named.push_back(name);
    }
    for (size_t i = 0; i < named.size(); ++i) {
        const std::string name = named[i];
        if (name == reference || reference.find(name) == std::string::npos) continue;
        named.erase(std::ranges::find(named, name));
    }
    const bool is_right = std::ranges::find(named, reference) != named.end();
    return is_right ? 1.0 / static_cast<double>(named.size()) : 0;
}

/// Share of the output's numbers that are `wanted`.
double share_of_numbers(std::string_view output, std::string_view wanted) {
    const std::vector<std::string_view> numbers = numbers_in(output);
    if (numbers.empty()) return 0;
    const auto n = std::ranges::count(numbers, wanted);
    return static_cast<double>(n) / static_cast<double>(numbers.size());
}

/// That a reference names, in English or in Chinese.
std::string_view paragraph_number(std::string_view reference) {
    const std::string_view english = number_behind(reference, "Paragraph ");
    return english.empty() ? number_behind(reference, "段落") : english;
}

/// The first line without a backtick or a comment's mark; empty if there is none.
std::string_view code_line(std::string_view output) {
    output.remove_prefix(std::min(output.find_first_not_of('\n'), output.size()));
    while (!output.empty()) {
        const std::string_view line = output.substr(0, output.find('\n'));
        const bool is_code = line.find('`') == std::string_view::npos &&
                             line.find('#') == std::string_view::npos &&
                             line.find("//") == std::string_view::npos;
        if (is_code) return line;
        output.remove_prefix(std::min(line.size() + 1, output.size()));
    }
    return {};
}

double edit_similarity(std::string_view a, std::string_view b) {
    if (a == b) return 1;
    if (a.empty() || b.empty()) return 0;
    const double ratio =
        2 * static_cast<double>(common_length(a, b)) / static_cast<double>(a.size() + b.size());
    return std::nearbyint(100 * ratio) / 100;
}

}  // namespace

double score_f1(std::string_view output, const Sample& sample) {
    const std::vector<std::string> written = normal_words(output);
    return best_reference(sample,
                          [&](const std::string& r) { return f1(written, normal_words(r)); });
}

double score_f1_chars(std::string_view output, const Sample& sample) {
    const std::vector<std::string> written = normal_characters(output);
    return best_reference(sample,
                          [&](const std::string& r) { return f1(written, normal_characters(r)); });
}

double score_f1_line(std::string_view output, const Sample& sample) {
    return score_f1(first_line(output), sample);
}

double score_rouge_l(std::string_view output, const Sample& sample) {
    return best_reference(sample,
                          [&](const std::string& reference) { return rouge_l(output, reference); });
}

double score_rouge_l_chars(std::string_view output, const Sample& sample) {
    const std::string written = spaced(output);
    return best_reference(sample,
                          [&](const std::string& r) { return rouge_l(written, spaced(r)); });
}

double score_rouge_l_line(std::string_view output, const Sample& sample) {
    return score_rouge_l(first_line(output), sample);
}

double score_classes_line(std::string_view output, const Sample& sample) {
    const std::string_view line = first_line(output);
    return best_reference(sample, [&](const std::string& r) { return classes(line, sample, r); });
}

double score_count(std::string_view output, const Sample& sample) {
    return best_reference(sample,
                          [&](const std::string& r) { return share_of_numbers(output, r); });
}

double score_retrieval(std::string_view output, const Sample& sample) {
    return best_reference(sample, [&](const std::string& reference) {
        return share_of_numbers(output, paragraph_number(reference));
    });
}

double score_edit(std::string_view output, const Sample& sample) {
    const std::string_view line = code_line(output);
    return best_reference(sample, [&](const std::string& r) { return edit_similarity(line, r); });
}

}  // namespace palimpsest
