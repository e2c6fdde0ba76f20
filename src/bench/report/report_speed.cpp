// Lines of `bench speed`, as tables and curves.

#include <algorithm>
#include <tuple>

#include "bench/report/report_parts.h"
#include "core/error.h"
#include "core/numbers.h"

namespace palimpsest {

namespace {

/// Model, processor, kernel, entries, commit, threads: what was measured alike.
using SpeedKey =
    std::tuple<std::string, std::string, std::string, std::string, std::string, int64_t>;
using Lines = std::vector<const SpeedLine*>;

std::string ratio(double ours, double theirs) {
    return ours > 0 && theirs > 0 ? fixed(ours / theirs, 2) + "x" : "-";
}

std::string megabytes(double bytes) {
    return bytes > 0 ? human_bytes(static_cast<size_t>(bytes)) : "-";
}

ReportTable speed_table(const Lines& lines) {
    ReportTable table = {.columns = {{.text = "memory"},
                                     {.text = "phase"},
                                     {.text = "depth"},
                                     {.text = "ours", .detail = "tok/s"},
                                     {.text = "ours, full", .detail = "tok/s"},
                                     {.text = "libllama", .detail = "tok/s"},
                                     {.text = "ours / libllama"},
                                     {.text = "ours / ours, full"},
                                     {.text = "resident", .detail = "peak"},
                                     {.text = "libllama's", .detail = "peak"}},
                         .rows = {},
                         .n_text = 2};
    for (const SpeedLine* l : lines) {
        ReportRow row;
        for (const std::string& text :
             {l->memory, l->phase, human_count(l->depth) + (l->beyond_training ? " *" : ""),
              rate(l->ours), rate(l->full), rate(l->peer), ratio(l->ours, l->peer),
              ratio(l->ours, l->full), megabytes(l->ours_peak_rss_bytes),
              megabytes(l->peer_peak_rss_bytes)}) {
            row.cells.push_back({.text = text});
        }
        table.rows.push_back(std::move(row));
    }
    return table;
}

void add_point(LineChart& chart, const std::string& label, int64_t depth, double per_s) {
    if (per_s <= 0) return;
    auto same = std::ranges::find(chart.series, label, &ChartSeries::label);
    if (same == chart.series.end()) {
        chart.series.push_back({.label = label, .points = {}});
        same = std::prev(chart.series.end());
    }
    same->points.push_back({.x = static_cast<double>(depth), .y = per_s});
}

/// The policy, and what else it takes to tell its memory from the others.
std::string curve_name(const Lines& lines, const SpeedLine& line) {
    const auto policy_of = [](const SpeedLine& l) {
        return l.memory.substr(0, l.memory.find(','));
    };
    const bool has_twin = std::ranges::any_of(lines, [&](const SpeedLine* other) {
        return other->memory != line.memory && policy_of(*other) == policy_of(line);
    });
    return has_twin ? line.memory : "ours, " + policy_of(line);
}

ReportFigure speed_curve(const Lines& lines, const std::string& phase) {
    LineChart chart = {.title = phase + " speed by depth",
                       .x = {.title = "tokens held before"},
                       .y = {.title = "", .low = 0, .high = 1},
                       .series = {}};
    std::set<int64_t> depths;
    for (const SpeedLine* l : lines) {
        if (l->phase != phase) continue;
        depths.insert(l->depth);
        add_point(chart, curve_name(lines, *l), l->depth, l->ours);
        add_point(chart, "ours, full", l->depth, l->full);
        add_point(chart, "libllama", l->depth, l->peer);
    }
    if (depths.size() < 2) return {};
    int colour = 0;
    for (ChartSeries& s : chart.series) {
        std::ranges::stable_sort(s.points, {}, &ChartPoint::x);
        s.is_dashed = s.label == "libllama";
        s.colour = s.is_dashed ? 8 : std::min(++colour, 7);
    }
    return {.caption = cat(phase, ", tokens per second"), .svg = line_chart_svg(chart)};
}

std::string conditions(const SpeedKey& key, const Lines& lines) {
    const auto& [model, processor, kernel, entries, commit, threads] = key;
    std::string text =
        cat(model, ", ", entries, " entries; ", processor, ", ", threads,
            threads == 1 ? " thread" : " threads", ", kernel ", kernel, "; commit ", commit, ".");
    const bool has_far =
        std::ranges::any_of(lines, [](const SpeedLine* l) { return l->beyond_training; });
    if (has_far) text += " * beyond what the model was trained for: speed only.";
    return text;
}

}  // namespace

void add_speed(ReportDocument& document, std::span<const SpeedLine> lines) {
    if (lines.empty()) return;
    std::vector<std::pair<SpeedKey, Lines>> groups;
    for (const SpeedLine& l : lines) {
        SpeedKey key = {l.model, l.processor, l.kernel, l.entries, l.commit, l.threads};
        auto same = std::ranges::find(groups, key, &std::pair<SpeedKey, Lines>::first);
        if (same == groups.end()) {
            groups.emplace_back(std::move(key), Lines{});
            same = std::prev(groups.end());
        }
        same->second.push_back(&l);
    }
    ReportPart part = {.title = "Speed"};
    part.blocks.push_back(
        {.text =
             "Tokens per second, medians over interleaved repeats. Prefill and decode are "
             "measured after so many tokens held (depth); a prompt is read from nothing, whole. "
             "In each table ours and libllama had the same file, threads and build of ggml."});
    for (const auto& [key, members] : groups) {
        part.blocks.push_back({.text = conditions(key, members)});
        part.blocks.push_back({.table = speed_table(members)});
        ReportBlock curves;
        for (const char* phase : {"prefill", "decode"}) {
            ReportFigure figure = speed_curve(members, phase);
            if (!figure.svg.empty()) curves.figures.push_back(std::move(figure));
        }
        if (!curves.figures.empty()) part.blocks.push_back(std::move(curves));
    }
    document.parts.push_back(std::move(part));
}

}  // namespace palimpsest
