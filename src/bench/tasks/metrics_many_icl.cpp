// ManyICLBench's measures (Zou and others, 2024, arXiv:2411.07130), as its evaluation (utils.py)
// computes them. ROUGE-L is that of the Python package `rouge_score`: words are runs of ASCII
// letters and digits, those of more than three stand as stems, and F1 is of a longest common
// subsequence. chrF++ is in metrics_chrf.cpp.
#include "bench/tasks/metrics.h"
#include "bench/tasks/metrics_parts.h"
#include "bench/tasks/stemmer.h"
#include "text/text_parts.h"

namespace palimpsest {

namespace {

std::string_view gsm8k_answer(std::string_view text) { return number_behind(text, "#### "); }

std::vector<std::string> labels_in(std::string_view text) {
    const std::string line = lower_case(first_line(text));
    std::vector<std::string> labels;
    for (const std::string_view label : split_at(line, ',')) labels.emplace_back(strip(label));
    return labels;
}

/// As many as are wanted. The original takes the rest for "unknown", which so becomes a class.
std::vector<std::string> labels_in(std::string_view text, size_t n) {
    std::vector<std::string> labels = labels_in(text);
    labels.resize(n, "unknown");
    return labels;
}

double share_of_labels(std::string_view output, std::string_view reference) {
    const std::vector<std::string> wanted = labels_in(reference);
    const std::vector<std::string> given = labels_in(output, wanted.size());
    double n_right = 0;
    for (size_t i = 0; i < wanted.size(); ++i) n_right += wanted[i] == given[i] ? 1 : 0;
    return n_right / static_cast<double>(wanted.size());
}

std::vector<std::string> stems_in(std::string_view text) {
    constexpr size_t kShort = 3;
    std::string plain = lower_case(text);
    for (char& c : plain) {
        if (!is_digit(c) && !(c >= 'a' && c <= 'z')) c = ' ';
    }
    std::vector<std::string> stems;
    for (const std::string_view word : split_words(plain)) {
        stems.push_back(word.size() > kShort ? stem_of(word) : std::string(word));
    }
    return stems;
}

double rouge_l_stems(std::string_view output, std::string_view reference) {
    const std::vector<std::string> written = stems_in(output), wanted = stems_in(reference);
    const auto common = static_cast<double>(common_length(written, wanted));
    if (common == 0) return 0;
    // Precision and recall are shares of one number, so F1 is that of it in both lengths.
    return 2 * common / static_cast<double>(written.size() + wanted.size());
}

}  // namespace

std::string first_line_label(std::string_view output, const Sample& /*sample*/) {
    return std::string(strip(first_line(output)));
}

double score_accuracy(std::string_view output, const Sample& sample) {
    const std::string label = first_line_label(output, sample);
    const bool is_right = std::ranges::any_of(sample.references, [&](const std::string& reference) {
        return first_line_label(reference, sample) == label;
    });
    return is_right ? 1 : 0;
}

std::string listed_labels(std::string_view output, const Sample& sample) {
    if (sample.references.empty()) return "";
    const size_t n = labels_in(sample.references.front()).size();
    return join(labels_in(output, n), "\n");
}

double score_labels(std::string_view output, const Sample& sample) {
    return best_reference(sample, [&](const std::string& r) { return share_of_labels(output, r); });
}

double score_rouge_l_stems(std::string_view output, const Sample& sample) {
    const std::string_view line = first_line(output);
    return best_reference(sample,
                          [&](const std::string& r) { return rouge_l_stems(line, first_line(r)); });
}

double score_gsm8k(std::string_view output, const Sample& sample) {
    const std::string_view answer = gsm8k_answer(output);
    const bool is_right = std::ranges::any_of(sample.references, [&](const std::string& reference) {
        return !answer.empty() && gsm8k_answer(reference) == answer;
    });
    return is_right ? 1 : 0;
}

}  // namespace palimpsest
