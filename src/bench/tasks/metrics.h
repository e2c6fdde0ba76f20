#pragma once

#include <span>
#include <string>
#include <string_view>

#include "bench/tasks/task.h"

namespace palimpsest {

// Each gives 0 to 1. Where a metric compares with one reference, the best one counts. Letters are
// lowered and white space is told by ASCII; the originals, in Python, know Unicode.

/// RULER: the share of the references found in the output, in any case.
double score_all(std::string_view output, const Sample& sample);
/// RULER: 1 if any reference is found.
double score_part(std::string_view output, const Sample& sample);
/// 1 if a reference stands in the output by itself, not inside a longer number or UUID.
double score_exact(std::string_view output, const Sample& sample);

// ManyICLBench. All but `score_gsm8k` judge the first line that is not empty.
/// 1 if it is a reference.
double score_accuracy(std::string_view output, const Sample& sample);
std::string first_line_label(std::string_view output, const Sample& sample);
/// The share of the reference's labels, between commas, that stand at their places in any case.
double score_labels(std::string_view output, const Sample& sample);
/// As many labels as the reference has, a line each.
std::string listed_labels(std::string_view output, const Sample& sample);
/// ROUGE-L between stems of words.
double score_rouge_l_stems(std::string_view output, const Sample& sample);
/// chrF++ of this sentence alone.
double score_chrf(std::string_view output, const Sample& sample);
/// GSM8K: 1 if the first "#### NUMBER" gives the reference's.
double score_gsm8k(std::string_view output, const Sample& sample);

// LongBench. Those ending in `_line` judge the first line only; those ending in `_chars`, for
// Chinese, take characters for words, which the original does not.
double score_f1(std::string_view output, const Sample& sample);
double score_f1_line(std::string_view output, const Sample& sample);
double score_f1_chars(std::string_view output, const Sample& sample);
double score_rouge_l(std::string_view output, const Sample& sample);
double score_rouge_l_line(std::string_view output, const Sample& sample);
double score_rouge_l_chars(std::string_view output, const Sample& sample);
double score_classes_line(std::string_view output, const Sample& sample);
double score_count(std::string_view output, const Sample& sample);
double score_retrieval(std::string_view output, const Sample& sample);
double score_edit(std::string_view output, const Sample& sample);
/// 0: the engine measures the divergence itself.
double score_nothing(std::string_view output, const Sample& sample);

inline constexpr Metric kAllMetric = {"all", score_all, true};
inline constexpr Metric kPartMetric = {"part", score_part, true};
// Falls when the output goes on with one more digit.
inline constexpr Metric kExactMetric = {"exact", score_exact};
inline constexpr Metric kAccuracyMetric = {"accuracy", score_accuracy, false, first_line_label};
inline constexpr Metric kLabelsMetric = {"labels", score_labels, false, listed_labels};
inline constexpr Metric kRougeLStemsMetric = {"rouge-l-stems", score_rouge_l_stems};
inline constexpr Metric kChrfMetric = {"chrf++", score_chrf};
inline constexpr Metric kGsm8kMetric = {"gsm8k", score_gsm8k};
inline constexpr Metric kF1Metric = {"f1", score_f1};
inline constexpr Metric kF1LineMetric = {"f1-line", score_f1_line};
inline constexpr Metric kF1CharsMetric = {"f1-chars", score_f1_chars};
inline constexpr Metric kRougeLMetric = {"rouge-l", score_rouge_l};
inline constexpr Metric kRougeLLineMetric = {"rouge-l-line", score_rouge_l_line};
inline constexpr Metric kRougeLCharsMetric = {"rouge-l-chars", score_rouge_l_chars};
inline constexpr Metric kClassesMetric = {"classes", score_classes_line};
inline constexpr Metric kCountMetric = {"count", score_count};
inline constexpr Metric kRetrievalMetric = {"retrieval", score_retrieval};
inline constexpr Metric kEditMetric = {"edit", score_edit};
inline constexpr Metric kKlMetric = {"kl", score_nothing};

/// Mean F1 over every class that is a label or was predicted; a class never met right scores 0. An
/// empty prediction is no class, but a miss for its label. Where a label has lines, each is a
/// label, and predicted by the same line. Throws kInvalidArgument unless both are of one length.
double macro_f1(std::span<const std::string> labels, std::span<const std::string> predicted);

}  // namespace palimpsest
