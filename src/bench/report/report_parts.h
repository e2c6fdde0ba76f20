#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bench/report/report_document.h"
#include "bench/report/svg_chart.h"

namespace palimpsest {

// The pieces from which make_report puts a report together.

/// "87.1", and "" or "-" where there is nothing to say.
std::string percent(double value);
std::string rate(double per_s);
/// "84.0 to 89.9"; "" for one sample, of which there is no interval.
std::string range(const Interval& interval, int64_t n, int digits = 1);
std::string joined(std::span<const std::string> texts, std::string_view between = ", ");

/// "RULER-style tasks" for "ruler"; a group's own name if it has no other.
std::string group_title(std::string_view group);
/// "One-shot, question-agnostic": how the context was compressed and whether the question was
/// known.
std::string protocol_title(std::string_view protocol, std::string_view question);

/// Was the method asked everything that its section's means are over?
bool is_complete(const Section& section, const MethodMean& mean);

/// A colour for each method that stands out, the same in every chart.
class SeriesColours {
 public:
    /// The window and the best seven over all sections.
    explicit SeriesColours(const QualitySummary& summary);

    /// Gives colours to a chart's series, those left over to the first that have none.
    void paint(std::vector<ChartSeries>& series) const;

 private:
    std::map<std::string, int> colours_;
};

/// The rows at one budget, method by method: the full cache, the window, and then the best first.
std::vector<const SummaryRow*> rows_at(const Section& section, const std::string& budget);

/// Means, curve, scores by task and every figure of one section; of needles at `depths` a map too.
void add_section(ReportDocument& document, const Section& section, std::span<const double> depths,
                 const SeriesColours& colours);

/// Scores by length and depth, for a section of the group "needle".
void add_needle_maps(ReportDocument& document, const Section& section,
                     std::span<const double> depths);

/// Everything with metric "kl".
void add_divergence(ReportDocument& document, const QualitySummary& summary,
                    const SeriesColours& colours);

void add_speed(ReportDocument& document, std::span<const SpeedLine> lines);

void add_prefixes(ReportDocument& document, std::span<const PrefixResult> results);

}  // namespace palimpsest
