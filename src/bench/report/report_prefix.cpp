// What stands for a long prefix, method by method: lines of `bench prefix`.

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <tuple>

#include "bench/prefix/prefix_demo.h"
#include "bench/report/report_parts.h"
#include "core/error.h"
#include "core/numbers.h"

namespace palimpsest {

namespace {

using Lines = std::vector<const PrefixResult*>;
/// Task, model, length, traces, tests, share of what is traced, validation: what may be compared.
using PrefixKey = std::tuple<std::string, std::string, int64_t, int64_t, int64_t, double, bool>;

/// All seeds of one method at one share. Clusterings of one seed ask the same questions, so each
/// seed counts once, as the mean of its clusterings.
struct PrefixRow {
    const PrefixResult* first = nullptr;
    Lines lines;

    /// Of every seed, added up.
    template <class Value>
    [[nodiscard]] double total(Value value) const {
        std::map<uint64_t, std::pair<double, double>> by_seed;  // sum, and of how many
        for (const PrefixResult* r : lines) {
            by_seed[r->seed].first += static_cast<double>((*r).*value);
            by_seed[r->seed].second += 1;
        }
        double all = 0;
        for (const auto& [seed, of] : by_seed) all += of.first / of.second;
        return all;
    }
    template <class Value>
    [[nodiscard]] double mean(Value value) const {
        std::set<uint64_t> seeds;
        for (const PrefixResult* r : lines) seeds.insert(r->seed);
        return total(value) / static_cast<double>(seeds.size());
    }
    [[nodiscard]] int64_t sum(int64_t PrefixResult::*value) const {
        return std::llround(total(value));
    }
    [[nodiscard]] double percent_of(int64_t PrefixResult::*hits,
                                    int64_t PrefixResult::*of = &PrefixResult::n) const {
        return 100.0 * total(hits) / total(of);
    }
    [[nodiscard]] double held_percent() const {
        return 100 * mean(&PrefixResult::held_bytes) / mean(&PrefixResult::full_bytes);
    }
    [[nodiscard]] double moved_percent() const {
        return 100 * mean(&PrefixResult::moved_bytes) / mean(&PrefixResult::full_bytes);
    }
};

/// In the order of the methods' table, small shares first.
std::vector<PrefixRow> rows_of(const Lines& lines) {
    std::vector<PrefixRow> rows;
    for (const PrefixMethodInfo& method : prefix_methods()) {
        std::set<double> shares;
        for (const PrefixResult* r : lines) {
            if (r->method == method.name) shares.insert(r->share);
        }
        for (const double share : shares) {
            PrefixRow row;
            for (const PrefixResult* r : lines) {
                if (r->method == method.name && r->share == share) row.lines.push_back(r);
            }
            row.first = row.lines.front();
            rows.push_back(std::move(row));
        }
    }
    return rows;
}

std::string title_of(std::string_view name) {
    for (const PrefixMethodInfo& m : prefix_methods()) {
        if (m.name == name) return std::string(m.title);
    }
    return std::string(name);
}

/// A share in percent, with its interval.
ReportCell share_cell(int64_t hits, int64_t n) {
    if (n == 0) return {.text = "-"};
    const ShareInterval i = wilson(hits, n);
    return {.text = fixed(100.0 * static_cast<double>(hits) / static_cast<double>(n), 1),
            .detail = cat(fixed(100 * i.low, 1), " to ", fixed(100 * i.high, 1))};
}

ReportTable prefix_table(const std::vector<PrefixRow>& rows) {
    ReportTable table = {
        .columns = {{.text = "method"},
                    {.text = "size"},
                    {.text = "held", .detail = "of the full prefix"},
                    {.text = "moved", .detail = "a token"},
                    {.text = "right", .detail = "%"},
                    {.text = "as full", .detail = "%"},
                    {.text = "KL", .detail = "over labels"},
                    {.text = "right: only full, only this", .detail = "p, McNemar"},
                    {.text = "E_out", .detail = "at the answer"},
                    {.text = "below floor", .detail = "% of lookups"},
                    {.text = "n", .detail = "runs"}},
        .rows = {}};
    for (const PrefixRow& row : rows) {
        const PrefixResult& first = *row.first;
        const int64_t only_full = row.sum(&PrefixResult::n_only_full);
        const int64_t only_this = row.sum(&PrefixResult::n_only_this);
        const auto bytes = [](double percent_of_full) {
            return percent_of_full > 0 ? fixed(percent_of_full, percent_of_full < 1 ? 2 : 1) + " %"
                                       : std::string("-");
        };
        const int64_t n = row.sum(&PrefixResult::n);
        ReportRow out;
        out.is_reference = first.method == "full" || first.method == "none";
        out.cells = {
            {.text = title_of(first.method)},
            {.text =
                 first.size > 0 ? human_count(std::llround(row.mean(&PrefixResult::size))) : "-"},
            {.text = bytes(row.held_percent())},
            {.text = bytes(row.moved_percent())},
            share_cell(row.sum(&PrefixResult::n_right), n),
            share_cell(row.sum(&PrefixResult::n_same), n),
            {.text = fixed(row.mean(&PrefixResult::divergence), 2)},
            {.text = cat(only_full, " : ", only_this),
             .detail = fixed(mcnemar(only_full, only_this), 3)}};
        if (first.e_out >= 0) {
            out.cells.push_back({.text = fixed(row.mean(&PrefixResult::e_out), 3),
                                 .detail = fixed(row.mean(&PrefixResult::e_out_answer), 3)});
            out.cells.push_back({.text = fixed(100 * row.mean(&PrefixResult::below_floor), 1)});
        } else {
            out.cells.resize(out.cells.size() + 2);
        }
        out.cells.push_back({.text = human_count(n), .detail = std::to_string(row.lines.size())});
        table.rows.push_back(std::move(out));
    }
    return table;
}

/// Where traces cover a part only: what is right on either.
ReportTable coverage_table(const std::vector<PrefixRow>& rows) {
    ReportTable table = {.columns = {{.text = "method"},
                                     {.text = "held"},
                                     {.text = "right where traced", .detail = "%"},
                                     {.text = "right elsewhere", .detail = "%"},
                                     {.text = "n", .detail = "traced, elsewhere"}},
                         .rows = {}};
    for (const PrefixRow& row : rows) {
        const int64_t traced = row.sum(&PrefixResult::n_traced);
        const int64_t elsewhere = row.sum(&PrefixResult::n) - traced;
        const int64_t right = row.sum(&PrefixResult::n_traced_right);
        const int64_t right_elsewhere = row.sum(&PrefixResult::n_right) - right;
        table.rows.push_back({.cells = {{.text = title_of(row.first->method)},
                                        {.text = fixed(row.held_percent(), 1) + " %"},
                                        share_cell(right, traced),
                                        share_cell(right_elsewhere, elsewhere),
                                        {.text = cat(traced, ", ", elsewhere)}}});
    }
    return table;
}

using ValueOf = double (*)(const PrefixRow& row);

/// One curve a method; methods of one size are points of their own.
ReportFigure curves(const std::vector<PrefixRow>& rows, const std::string& caption,
                    const std::string& x_title, ValueOf x, ValueOf y) {
    LineChart chart = {.title = caption,
                       .x = {.title = x_title, .unit = " %", .is_log = true},
                       .y = {.title = "", .unit = " %", .low = 0, .high = 100},
                       .series = {}};
    for (const PrefixRow& row : rows) {
        const std::string& method = row.first->method;
        if (method == "full") {
            chart.reference = y(row);
            chart.reference_label = title_of(method);
        }
        if (method == "full" || x(row) <= 0) continue;
        const std::string label = title_of(method);
        auto same = std::ranges::find(chart.series, label, &ChartSeries::label);
        if (same == chart.series.end()) {
            chart.series.push_back({.label = label, .points = {}});
            same = std::prev(chart.series.end());
        }
        same->points.push_back({.x = x(row), .y = y(row)});
    }
    int colour = 0;  // of eight
    for (const PrefixMethodInfo& m : prefix_methods()) {
        const auto of = std::ranges::find(chart.series, m.title, &ChartSeries::label);
        if (of == chart.series.end()) continue;
        of->is_dashed = m.title.ends_with("(control)");
        of->colour = m.is_aside ? 0 : std::min(++colour, 8);
    }
    return {.caption = caption, .svg = line_chart_svg(chart)};
}

ReportFigure error_by_size(const std::vector<PrefixRow>& rows) {
    LineChart chart = {.title = "E_out against entries",
                       .x = {.title = "entries a KV head", .is_log = true},
                       .y = {.title = "", .low = 0, .high = 0.1},
                       .series = {}};
    int colour = 0;
    for (const char* method : {"memory-kept", "memory", "memory-whitened", "memory-group"}) {
        ChartSeries mean = {.label = title_of(method), .colour = ++colour, .points = {}};
        ChartSeries answer = {.label = title_of(method) + ", at the answer",
                              .colour = ++colour,
                              .is_dashed = true,
                              .points = {}};
        for (const PrefixRow& row : rows) {
            if (row.first->method != method) continue;
            const double size = row.mean(&PrefixResult::size);
            mean.points.push_back({.x = size, .y = row.mean(&PrefixResult::e_out)});
            answer.points.push_back({.x = size, .y = row.mean(&PrefixResult::e_out_answer)});
        }
        if (mean.points.size() < 2) continue;
        chart.series.push_back(std::move(mean));
        chart.series.push_back(std::move(answer));
    }
    return {.caption = chart.title, .svg = line_chart_svg(chart)};
}

/// One of a check's errors, a curve for each of the first memories.
ReportFigure error_by_layer(const std::vector<PrefixRow>& rows, const std::string& name,
                            std::vector<double> PrefixResult::*errors) {
    LineChart chart = {.title = name + " by layer",
                       .x = {.title = "layer"},
                       .y = {.title = "", .low = 0, .high = 0.1},
                       .series = {}};
    for (const PrefixRow& row : rows) {
        Lines lines;  // those that have it
        for (const PrefixResult* r : row.lines) {
            if (!(r->*errors).empty()) lines.push_back(r);
        }
        if (!row.first->method.starts_with("memory") || lines.empty()) continue;
        if (chart.series.size() == 8) break;
        ChartSeries s = {.label = cat(row.first->method, ", ", fixed(row.held_percent(), 1), " %"),
                         .colour = std::min(8, static_cast<int>(chart.series.size()) + 1),
                         .points = {}};
        for (size_t layer = 0; layer < (lines.front()->*errors).size(); ++layer) {
            double sum = 0;
            for (const PrefixResult* r : lines) {
                sum += layer < (r->*errors).size() ? (r->*errors)[layer] : 0;
            }
            s.points.push_back(
                {.x = static_cast<double>(layer), .y = sum / static_cast<double>(lines.size())});
        }
        chart.series.push_back(std::move(s));
    }
    return {.caption = chart.title, .svg = line_chart_svg(chart)};
}

std::string conditions(const PrefixKey& key, const Lines& lines) {
    const auto& [task, model, length, traces, tests, traced, is_validation] = key;
    std::set<uint64_t> seeds;
    std::set<uint64_t> builds;
    std::set<std::string> commits;
    std::set<std::string> processors;
    for (const PrefixResult* r : lines) {
        seeds.insert(r->seed);
        if (r->cluster_seed > 0) builds.insert(r->cluster_seed);
        commits.insert(r->commit);
        processors.insert(r->processor);
    }
    const auto list = [](const auto& of) {
        std::string out;
        for (const auto& x : of) out += cat(out.empty() ? "" : ", ", x);
        return out;
    };
    return cat(model, ", ", traces, " traces, ", tests, " requests a seed; seeds ", list(seeds),
               ", of the clustering ", list(builds), "; ", list(processors), "; commit ",
               list(commits), ".");
}

}  // namespace

void add_prefixes(ReportDocument& document, std::span<const PrefixResult> results) {
    if (results.empty()) return;
    std::vector<std::pair<PrefixKey, Lines>> groups;
    for (const PrefixResult& r : results) {
        PrefixKey key = {r.task,    r.model,  r.length,       r.n_traces,
                         r.n_tests, r.traced, r.is_validation};
        auto same = std::ranges::find(groups, key, &std::pair<PrefixKey, Lines>::first);
        if (same == groups.end()) {
            groups.emplace_back(std::move(key), Lines{});
            same = std::prev(groups.end());
        }
        same->second.push_back(&r);
    }
    document.parts.push_back(
        {.title = "A prefix that many requests share",
         .blocks = {{.text =
                         "Generated tasks whose answers stand in the prefix alone. Every method "
                         "with a size holds the given share of the full prefix's keys and values; "
                         "what is moved for a token is another number. Intervals: Wilson, 95 %. "
                         "Prefix memories and trace-aware eviction have seen sample requests "
                         "(traces), other methods have not."}}});
    for (const auto& [key, lines] : groups) {
        const auto& [task, model, length, traces, tests, traced, is_validation] = key;
        const std::vector<PrefixRow> rows = rows_of(lines);
        ReportPart part = {.level = 3, .title = cat(task, ", ", length, " tokens")};
        if (traced < 1) part.title += cat(", traces of ", fixed(100 * traced, 0), " %");
        if (is_validation) part.title += ", validation";
        part.blocks.push_back({.text = conditions(key, lines)});
        part.blocks.push_back({.table = prefix_table(rows)});
        ReportBlock figures;
        const ValueOf right = [](const PrefixRow& r) {
            return r.percent_of(&PrefixResult::n_right);
        };
        const ValueOf held = [](const PrefixRow& r) { return r.held_percent(); };
        const ValueOf moved = [](const PrefixRow& r) { return r.moved_percent(); };
        figures.figures = {curves(rows, "Right answers against bytes held",
                                  "held, of the full prefix", held, right),
                           curves(rows, "Right answers against bytes moved for a token",
                                  "moved, of the full prefix", moved, right),
                           error_by_size(rows),
                           error_by_layer(rows, "E_out", &PrefixResult::e_out_by_layer),
                           error_by_layer(rows, "E_a", &PrefixResult::e_state_by_layer),
                           error_by_layer(rows, "E_l, nats,", &PrefixResult::e_lse_by_layer)};
        std::erase_if(figures.figures, [](const ReportFigure& f) { return f.svg.empty(); });
        part.blocks.push_back(std::move(figures));
        if (traced < 1) part.blocks.push_back({.table = coverage_table(rows)});
        document.parts.push_back(std::move(part));
    }
}

}  // namespace palimpsest
