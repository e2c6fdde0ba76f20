#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bench/quality/bootstrap.h"
#include "bench/quality/quality_result.h"

namespace palimpsest {

/// What remembers, whatever its budget.
struct MemoryMethod {
    std::string memory, policy, allocator, residue, options, entries;
    int64_t chunk = 0;         // 0 for the full cache, to which chunks make no difference
    std::string weights = {};  // of trained parts, where results are of several; else empty

    auto operator<=>(const MemoryMethod&) const = default;  // NOLINT(modernize-use-nullptr)
};

/// "snap-kv/adaptive+merge (a=1), q8_0": what differs from the usual is named, and weights if
/// there are several. `with_chunk`: the chunk too.
std::string to_string(const MemoryMethod& method, bool with_chunk = false);

/// Keeps every entry, by key and value.
[[nodiscard]] bool is_full(const MemoryMethod& method);
/// The policy every other one is measured against, as it is.
[[nodiscard]] bool is_window(const MemoryMethod& method);

/// What was asked, as often as there are samples.
struct AskedTask {
    std::string model;  // and the prefixes it reads behind
    std::string group, task, metric;
    int64_t length = 0;
    bool has_template = true;

    auto operator<=>(const AskedTask&) const = default;  // NOLINT(modernize-use-nullptr)
};

/// All samples of one task under one method, budget and protocol. Scores in percent, except for
/// metric "kl": nats, and the lower the better.
struct SummaryRow {
    AskedTask asked;
    std::string protocol, question, budget;  // question: "" for the full cache, which serves both
    MemoryMethod method;
    std::string label;  // of the method

    int64_t n = 0;
    Interval score;
    std::vector<double> scores;  // sample by sample
    int64_t n_paired =
        0;  // samples that the full cache was asked too; the next three are over them
    std::optional<double> full_score;
    std::optional<Interval> retention;  // in percent; none if the full cache scored 0
    std::vector<double> paired_scores, paired_full_scores;  // sample by sample

    std::optional<double> macro_f1, full_macro_f1;  // in percent, where there are classes
    double kept = 0;                                // means
    double bytes = 0, full_bytes = 0;
    size_t peak_bytes = 0;                       // the largest
    double prefill_per_s = 0, decode_per_s = 0;  // tokens; 0: none were
    int64_t lanes = 1;                           // most answers written at once
    double cut_s = 0;                            // mean

    std::optional<Interval> nll_difference;  // metric "kl", in nats
    double nll = 0, nll_full = 0;
    std::vector<DivergenceBin> kl_by_position = {};
    std::vector<double> score_by_depth = {};  // percent; depths are those of the summary

    [[nodiscard]] double bytes_share() const { return full_bytes > 0 ? bytes / full_bytes : kept; }
};

/// A task in a section, and whether its retention counts there.
struct SectionTask {
    AskedTask asked;
    std::string label;  // unique in the section
    std::optional<double> full_score;
    bool counts = false;
};

/// One method at one budget over the tasks of a section.
struct MethodMean {
    MemoryMethod method;
    std::string label, budget;
    std::optional<Interval> mean;  // percent; nullopt if none of the tasks that count was asked
    size_t n_task = 0;             // of those that count
    int64_t n = 0;                 // samples in them
    double bytes = 0, bytes_share = 0, kept = 0;  // means over all its rows
};

/// What may be compared: one model, group, length, protocol and way of asking.
struct Section {
    std::string model, group, protocol, question;
    int64_t length = 0;  // 0: several (needle grids)
    std::vector<SectionTask> tasks;
    std::vector<std::string> budgets;     // those that keep most first
    std::vector<const SummaryRow*> rows;  // the full cache first, then by budget and score
    std::vector<MethodMean> means;        // not of the full cache; best first, over their budgets
    bool has_retention = true;        // means are of retention; false: of scores, over all tasks
    std::optional<double> full_mean;  // score of the full cache over the tasks that count
    double full_bytes = 0;

    [[nodiscard]] size_t n_counting() const;
};

/// What was run.
struct RunFacts {
    std::set<std::string> models, sources, commits, processors;
    std::set<int64_t> lengths, threads;
    std::set<uint64_t> seeds;
    size_t n_result = 0, n_repeated = 0;  // repeated: results whose key came again later
};

struct QualitySummary {
    std::vector<SummaryRow> rows;  // sections point here
    std::vector<Section> sections;
    std::vector<double> depths;  // of needles, ascending
    RunFacts facts;

    QualitySummary() = default;
    QualitySummary(const QualitySummary&) = delete;
    QualitySummary& operator=(const QualitySummary&) = delete;
    QualitySummary(QualitySummary&&) = default;
    QualitySummary& operator=(QualitySummary&&) = default;
    ~QualitySummary() = default;
};

/// Under this score of the full cache, in percent, what a method retains of it says nothing.
inline constexpr double kFullScoreThatCounts = 30;

/// Groups results and pairs them with the full cache's over the same samples. Of results with the
/// same key the last one counts.
QualitySummary summarize(std::span<const QualityResult> results);

/// The part of it that comes after the rows: what may be compared with what.
std::vector<Section> make_sections(std::span<const SummaryRow> rows);

/// Each budget once, by the mean share of entries it was seen to keep, the largest first.
std::vector<std::string> most_kept_first(
    std::span<const std::pair<std::string, double>> kept_by_budget);

}  // namespace palimpsest
