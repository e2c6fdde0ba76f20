// One section of a report: what may be compared, as means, a curve, and every figure.

#include <algorithm>
#include <functional>

#include "bench/report/report_parts.h"
#include "core/error.h"
#include "core/numbers.h"

namespace palimpsest {

namespace {

std::string megabytes(double bytes) {
    return bytes > 0 ? human_bytes(static_cast<size_t>(bytes)) : "-";
}

std::string with_score(const SectionTask& task) {
    return task.full_score ? cat(task.label, " (", percent(*task.full_score), ")") : task.label;
}

std::string_view how(const Section& section) {
    const bool is_aware = section.question == "aware";
    if (section.protocol == "one-shot") {
        return is_aware ? "Everything was read, the question with it, then cut once to the budget."
                        : "Everything but the question was read, then cut once to the budget; the "
                          "question came afterwards.";
    }
    if (section.protocol == "streaming") {
        return is_aware ? "The budget held while reading; the question was part of what was read."
                        : "The budget held while reading; the question came afterwards.";
    }
    return "Only the full cache was run.";
}

/// Which tasks the means are over, and which they are not.
std::string which_tasks(const Section& section) {
    std::vector<std::string> counting;
    std::vector<std::string> below;
    std::vector<std::string> without;
    for (const SectionTask& task : section.tasks) {
        auto& list = !task.full_score ? without : task.counts ? counting : below;
        if (section.has_retention || !task.full_score) {
            list.push_back(with_score(task));
        } else {
            below.push_back(with_score(task));
        }
    }
    std::string text;
    if (section.has_retention) {
        text = cat("Means are over ", counting.size(), counting.size() == 1 ? " task" : " tasks",
                   " on which the full cache scores at least 30: ", joined(counting), ". ");
        if (!below.empty()) {
            text += cat("Shown, but left out of the means, for the full cache stays under 30: ",
                        joined(below), ". ");
        }
    } else if (below.empty()) {
        return "There are no results of the full cache for these samples, so no retention can be "
               "given: means are of scores, over all tasks.";
    } else {
        text =
            cat("On no task does the full cache reach 30, so no retention is given: means are of "
                "scores, over all tasks (full cache: ",
                joined(below), "). ");
    }
    if (!without.empty()) text += cat("Without results of the full cache: ", joined(without), ". ");
    return text;
}

ReportCell mean_cell(const Section& section, const MethodMean& m) {
    if (!m.mean) return {.text = "-"};
    ReportCell cell = {.text = percent(m.mean->mean), .detail = range(*m.mean, m.n)};
    if (m.n_task < section.n_counting()) {
        cell.is_muted = true;
        cell.detail = cat(m.n_task, " of ", section.n_counting(), " tasks");
    }
    return cell;
}

/// Highest mean at a budget among methods that were asked everything.
double best_at(const Section& section, const std::string& budget) {
    double best = -1;
    for (const MethodMean& m : section.means) {
        if (m.budget == budget && is_complete(section, m)) best = std::max(best, m.mean->mean);
    }
    return best;
}

ReportRow full_row(const Section& section) {
    ReportRow row = {.cells = {{.text = "full"}}, .is_reference = true};
    row.cells.front().detail =
        cat("score ", percent(section.full_mean.value_or(0)), section.full_bytes > 0 ? ", " : "",
            section.full_bytes > 0 ? megabytes(section.full_bytes) : "");
    for (size_t i = 0; i < section.budgets.size(); ++i) row.cells.push_back({.text = "100.0"});
    return row;
}

std::vector<ReportCell> budget_columns(const Section& section) {
    std::vector<ReportCell> columns = {{.text = "method"}};
    for (const std::string& budget : section.budgets) {
        double share = 0;
        double n = 0;
        for (const MethodMean& m : section.means) {
            if (m.budget != budget) continue;
            share += m.bytes_share;
            n += 1;
        }
        columns.push_back({.text = budget, .detail = cat(percent(100 * share / n), " % of bytes")});
    }
    return columns;
}

ReportTable means_table(const Section& section) {
    ReportTable table = {.columns = budget_columns(section), .rows = {}};
    std::vector<ReportRow> others;
    for (size_t first = 0; first < section.means.size();) {
        const MemoryMethod& method = section.means[first].method;
        ReportRow row = {.cells = {{.text = section.means[first].label}},
                         .is_reference = is_window(method)};
        row.cells.resize(section.budgets.size() + 1);
        for (; first < section.means.size() && section.means[first].method == method; ++first) {
            const MethodMean& m = section.means[first];
            const auto at = std::ranges::find(section.budgets, m.budget) - section.budgets.begin();
            ReportCell& cell = row.cells[static_cast<size_t>(at) + 1];
            cell = mean_cell(section, m);
            cell.is_best = is_complete(section, m) && m.mean->mean >= best_at(section, m.budget);
        }
        (row.is_reference ? table.rows : others).push_back(std::move(row));
    }
    if (section.has_retention) table.rows.insert(table.rows.begin(), full_row(section));
    table.rows.insert(table.rows.end(), others.begin(), others.end());
    return table;
}

/// Does a table say something about the window? It should.
bool has_window(const Section& section) {
    return std::ranges::any_of(section.means,
                               [](const MethodMean& m) { return is_window(m.method); });
}

ReportFigure curve(const Section& section, const SeriesColours& colours) {
    LineChart chart = {.title = "Quality against bytes held",
                       .x = {.title = "bytes held, of the full cache's (fewer to the right)",
                             .unit = " %",
                             .is_log = true,
                             .is_falling = true},
                       .y = {.title = "", .low = 0, .high = section.has_retention ? 100.0 : 0.0},
                       .series = {}};
    double most = 0;
    for (const MethodMean& m : section.means) {
        if (!is_complete(section, m)) continue;
        if (chart.series.empty() || chart.series.back().label != m.label) {
            chart.series.push_back(
                {.label = m.label, .is_dashed = is_window(m.method), .points = {}});
        }
        chart.series.back().points.push_back({.x = 100 * m.bytes_share, .y = m.mean->mean});
        most = std::max(most, m.bytes_share);
    }
    for (ChartSeries& s : chart.series) {
        std::ranges::sort(s.points, std::greater{}, &ChartPoint::x);
    }
    colours.paint(chart.series);
    if (section.has_retention) {
        chart.reference = 100;
        chart.reference_label = "full cache";
    }
    if (most > 0.4) chart.x.low = 100 * most, chart.x.high = 100;
    std::string caption = section.has_retention ? "Mean retention, in percent, against bytes held"
                                                : "Mean score, in percent, against bytes held";
    return {.caption = std::move(caption), .svg = line_chart_svg(chart)};
}

/// A score, shaded by what is retained of the full cache's.
ReportCell score_cell(const SummaryRow& row, bool counts) {
    const double shade = row.retention ? row.retention->mean : row.score.mean;
    return {.text = percent(row.score.mean),
            .is_muted = !counts,
            .tint = counts ? heat_class(shade) : -1};
}

/// Those that count first.
std::vector<const SectionTask*> in_order(const std::vector<SectionTask>& tasks) {
    std::vector<const SectionTask*> order;
    order.reserve(tasks.size());
    for (const SectionTask& task : tasks) order.push_back(&task);
    // Clang 14 does not compile what std::ranges::stable_partition returns.
    std::stable_partition(order.begin(), order.end(),
                          [](const SectionTask* task) { return task->counts; });
    return order;
}

/// Methods down, tasks across, at one budget.
ReportTable scores_table(const Section& section, const std::string& budget) {
    const std::vector<const SectionTask*> tasks = in_order(section.tasks);
    ReportTable table = {.columns = {{.text = budget.empty() ? "method" : budget}}, .rows = {}};
    for (const SectionTask* task : tasks) {
        table.columns.push_back({.text = task->label, .detail = task->counts ? "" : "left out"});
    }
    const MemoryMethod* last = nullptr;
    for (const SummaryRow* r : rows_at(section, budget)) {
        if (last == nullptr || *last != r->method) {
            table.rows.push_back({.cells = {{.text = r->label}},
                                  .is_reference = is_full(r->method) || is_window(r->method)});
            table.rows.back().cells.resize(tasks.size() + 1);
        }
        last = &r->method;
        const auto task = std::ranges::find(tasks, r->asked, &SectionTask::asked);
        table.rows.back().cells[static_cast<size_t>(task - tasks.begin()) + 1] =
            score_cell(*r, (*task)->counts);
    }
    return table;
}

ReportPart scores_part(const Section& section) {
    ReportPart part = {.level = 4, .title = "Scores by task, method and budget"};
    part.blocks.push_back(
        {.text = section.has_retention
                     ? "Scores in percent; the deeper the shade, the more of the full cache's."
                     : "Scores in percent; the deeper the shade, the higher."});
    for (const std::string& budget : section.budgets) {
        part.blocks.push_back({.table = scores_table(section, budget)});
    }
    return part;
}

std::vector<ReportCell> figure_columns(bool has_classes) {
    std::vector<ReportCell> columns = {{.text = "method"},
                                       {.text = "budget"},
                                       {.text = "score"},
                                       {.text = "full"},
                                       {.text = "retention"},
                                       {.text = "n"},
                                       {.text = "bytes"},
                                       {.text = "of full"},
                                       {.text = "peak"},
                                       {.text = "prefill", .detail = "tok/s"},
                                       {.text = "decode", .detail = "tok/s"},
                                       {.text = "cutting"}};
    if (has_classes) {
        columns.push_back({.text = "macro-F1"});
        columns.push_back({.text = "full's"});
    }
    return columns;
}

ReportRow figures_of(const SummaryRow& r, bool has_classes) {
    const bool is_reference = is_full(r.method) || is_window(r.method);
    ReportRow row = {.cells = {{.text = r.label}, {.text = r.protocol == "full" ? "-" : r.budget}},
                     .is_reference = is_reference};
    const auto add = [&](std::string text, std::string detail = "") {
        row.cells.push_back({.text = std::move(text), .detail = std::move(detail)});
    };
    add(percent(r.score.mean), range(r.score, r.n));
    add(r.full_score ? percent(*r.full_score) : "-",
        r.full_score && r.n_paired < r.n ? cat("on ", r.n_paired) : "");
    add(r.retention ? percent(r.retention->mean) : "-",
        r.retention ? range(*r.retention, r.n_paired) : "");
    add(std::to_string(r.n));
    add(megabytes(r.bytes));
    add(percent(100 * r.bytes_share()) + " %");
    add(megabytes(static_cast<double>(r.peak_bytes)));
    add(rate(r.prefill_per_s));
    add(rate(r.decode_per_s), r.decode_per_s > 0 && r.lanes > 1 ? cat("x", r.lanes) : "");
    add(r.cut_s > 0 ? human_seconds(r.cut_s) : "-");
    if (has_classes) {
        add(r.macro_f1 ? percent(*r.macro_f1) : "-");
        add(r.full_macro_f1 ? percent(*r.full_macro_f1) : "-");
    }
    return row;
}

/// Everything about one task.
ReportTable task_table(const Section& section, const SectionTask& task) {
    std::vector<const SummaryRow*> rows;
    std::ranges::copy_if(section.rows, std::back_inserter(rows),
                         [&](const SummaryRow* r) { return r->asked == task.asked; });
    const bool has_classes =
        std::ranges::any_of(rows, [](const SummaryRow* r) { return r->macro_f1.has_value(); });
    ReportTable table = {.columns = figure_columns(has_classes), .rows = {}, .n_text = 2};
    for (const SummaryRow* r : rows) table.rows.push_back(figures_of(*r, has_classes));
    return table;
}

std::string section_title(const Section& section) {
    std::string title = protocol_title(section.protocol, section.question);
    return section.length > 0 ? cat(title, ", ", section.length, " tokens") : title;
}

std::string task_title(const SectionTask& task) {
    if (!task.full_score) return cat("Task ", task.label, ": every figure");
    return cat(
        "Task ", task.label, ": every figure (full cache ", percent(*task.full_score),
        task.counts || *task.full_score >= kFullScoreThatCounts ? ")" : ", left out of means)");
}

}  // namespace

void add_section(ReportDocument& document, const Section& section, std::span<const double> depths,
                 const SeriesColours& colours) {
    ReportPart part = {.level = 3, .title = section_title(section)};
    part.blocks.push_back({.text = std::string(how(section))});
    part.blocks.push_back({.text = which_tasks(section)});
    if (!section.means.empty()) {
        if (!has_window(section)) {
            part.blocks.push_back({.text = "The window policy was not run here; it should be."});
        }
        ReportBlock block = {.table = means_table(section)};
        ReportFigure figure = curve(section, colours);
        if (!figure.svg.empty()) block.figures.push_back(std::move(figure));
        part.blocks.push_back(std::move(block));
    } else {
        part.blocks.push_back({.table = scores_table(section, "")});
    }
    document.parts.push_back(std::move(part));
    if (section.group == "needle") add_needle_maps(document, section, depths);
    if (!section.budgets.empty()) document.parts.push_back(scores_part(section));
    document.parts.push_back({.level = 4, .title = "Every figure, task by task"});
    for (const SectionTask& task : section.tasks) {
        document.parts.push_back({.level = 5,
                                  .title = task_title(task),
                                  .blocks = {{.table = task_table(section, task)}}});
    }
}

}  // namespace palimpsest
