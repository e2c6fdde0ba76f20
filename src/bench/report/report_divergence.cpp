// How far predictions move from the full cache's.

#include <algorithm>
#include <cmath>
#include <functional>
#include <tuple>

#include "bench/report/report_parts.h"
#include "core/error.h"
#include "core/numbers.h"

namespace palimpsest {

namespace {

using Rows = std::vector<const SummaryRow*>;
/// Model, length, task, protocol and question: what may be compared.
using DivergenceKey = std::tuple<std::string, int64_t, std::string, std::string, std::string>;

/// Small divergences need more digits.
int digits_of(double value) { return std::abs(value) < 0.0995 ? 4 : 3; }

ReportCell nats(const Interval& i, int64_t n) {
    const int digits = digits_of(i.mean);
    return {.text = fixed(i.mean, digits), .detail = range(i, n, digits)};
}

std::vector<std::string> budgets_of(const Rows& rows) {
    std::vector<std::pair<std::string, double>> kept;
    kept.reserve(rows.size());
    for (const SummaryRow* r : rows) kept.emplace_back(r->budget, r->kept);
    return most_kept_first(kept);
}

struct MethodRows {
    MemoryMethod method;
    std::string label;
    Rows rows;
    double mean = 0;  // over its rows
};

/// The window, then the nearest to the full cache first.
std::vector<MethodRows> methods_of(const Rows& rows) {
    std::vector<MethodRows> methods;
    for (const SummaryRow* r : rows) {
        auto same = std::ranges::find(methods, r->method, &MethodRows::method);
        if (same == methods.end()) {
            methods.push_back({.method = r->method, .label = r->label, .rows = {}});
            same = std::prev(methods.end());
        }
        same->rows.push_back(r);
    }
    for (MethodRows& m : methods) {
        for (const SummaryRow* r : m.rows) {
            m.mean += r->score.mean / static_cast<double>(m.rows.size());
        }
    }
    std::ranges::sort(methods, {}, [](const MethodRows& m) {
        return std::tuple(!is_window(m.method), m.mean, m.label);
    });
    return methods;
}

using IntervalOf = const Interval& (*)(const SummaryRow&);

/// Methods down, budgets across; the smallest of each is the best.
ReportTable divergence_table(const Rows& rows, IntervalOf interval_of) {
    const std::vector<std::string> budgets = budgets_of(rows);
    ReportTable table = {.columns = {{.text = "method"}}, .rows = {}};
    for (const std::string& budget : budgets) table.columns.push_back({.text = budget});
    std::map<std::string, double> best;
    for (const SummaryRow* r : rows) {
        const double mean = interval_of(*r).mean;
        const auto at = best.try_emplace(r->budget, mean).first;
        at->second = std::min(at->second, mean);
    }
    for (const MethodRows& m : methods_of(rows)) {
        ReportRow row = {.cells = {{.text = m.label}}, .is_reference = is_window(m.method)};
        row.cells.resize(budgets.size() + 1);
        for (const SummaryRow* r : m.rows) {
            const auto at = std::ranges::find(budgets, r->budget) - budgets.begin();
            ReportCell& cell = row.cells[static_cast<size_t>(at) + 1];
            cell = nats(interval_of(*r), r->n);
            cell.is_best = interval_of(*r).mean <= best[r->budget];
        }
        table.rows.push_back(std::move(row));
    }
    return table;
}

ReportFigure against_bytes(const Rows& rows, const SeriesColours& colours) {
    LineChart chart = {.title = "Divergence against bytes held",
                       .x = {.title = "bytes held, of the full cache's (fewer to the right)",
                             .unit = " %",
                             .is_log = true,
                             .is_falling = true},
                       .y = {.title = "", .is_log = true},
                       .series = {}};
    for (const MethodRows& m : methods_of(rows)) {
        ChartSeries s = {.label = m.label, .is_dashed = is_window(m.method), .points = {}};
        for (const SummaryRow* r : m.rows) {
            s.points.push_back({.x = 100 * r->bytes_share(), .y = r->score.mean});
        }
        std::ranges::sort(s.points, std::greater{}, &ChartPoint::x);
        chart.series.push_back(std::move(s));
    }
    colours.paint(chart.series);
    return {.caption = "Divergence in nats against bytes held", .svg = line_chart_svg(chart)};
}

ReportFigure by_position(const Rows& rows, const std::string& budget,
                         const SeriesColours& colours) {
    LineChart chart = {.title = "Divergence by position",
                       .x = {.title = "tokens after the context"},
                       .y = {.title = "", .is_log = true},
                       .series = {}};
    for (const MethodRows& m : methods_of(rows)) {
        for (const SummaryRow* r : m.rows) {
            if (r->budget != budget || r->kl_by_position.empty()) continue;
            ChartSeries s = {.label = m.label, .is_dashed = is_window(m.method), .points = {}};
            for (const DivergenceBin& bin : r->kl_by_position) {
                const double middle = 0.5 * static_cast<double>(bin.begin + bin.end - 1);
                s.points.push_back({.x = middle, .y = bin.kl});
            }
            chart.series.push_back(std::move(s));
        }
    }
    colours.paint(chart.series);
    return {.caption = cat("By position: ", budget), .svg = line_chart_svg(chart)};
}

const Interval& kl_of(const SummaryRow& row) { return row.score; }

const Interval& nll_difference_of(const SummaryRow& row) { return *row.nll_difference; }

ReportPart part_of(const DivergenceKey& key, const Rows& rows, bool with_model,
                   const SeriesColours& colours) {
    const auto& [model, length, task, protocol, question] = key;
    ReportPart part = {
        .level = 3,
        .title = cat(with_model ? model + ": " : "", protocol_title(protocol, question), ", ", task,
                     ", ", length, " tokens")};
    part.blocks.push_back(
        {.text =
             "Mean divergence from the full cache in nats, lower is better, with its interval:"});
    part.blocks.push_back(
        {.table = divergence_table(rows, kl_of), .figures = {against_bytes(rows, colours)}});
    ReportBlock charts;
    for (const std::string& budget : budgets_of(rows)) {
        charts.figures.push_back(by_position(rows, budget, colours));
    }
    std::erase_if(charts.figures, [](const ReportFigure& f) { return f.svg.empty(); });
    part.blocks.push_back(std::move(charts));
    part.blocks.push_back(
        {.text = cat("Increase of the mean negative log-likelihood of the text, in nats a token, "
                     "over the full cache's ",
                     fixed(rows.front()->nll_full, 3), ":")});
    part.blocks.push_back({.table = divergence_table(rows, nll_difference_of)});
    return part;
}

}  // namespace

void add_divergence(ReportDocument& document, const QualitySummary& summary,
                    const SeriesColours& colours) {
    std::map<DivergenceKey, Rows> groups;
    for (const SummaryRow& row : summary.rows) {
        if (row.asked.metric != "kl" || row.protocol == "full") continue;
        groups[{row.asked.model, row.asked.length, row.asked.task, row.protocol, row.question}]
            .push_back(&row);
    }
    if (groups.empty()) return;
    document.parts.push_back({.title = "Divergence from the full cache"});
    for (const auto& [key, rows] : groups) {
        document.parts.push_back(part_of(key, rows, summary.facts.models.size() > 1, colours));
    }
}

}  // namespace palimpsest
