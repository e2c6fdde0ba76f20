// Needle grids: where in how long a text a memory still finds something.

#include <algorithm>

#include "bench/report/report_parts.h"
#include "core/error.h"
#include "core/numbers.h"

namespace palimpsest {

namespace {

constexpr size_t kFiguresShown = 24;  // more are folded away until asked for

/// "4K" for 4096; other lengths as they are.
std::string short_length(int64_t length) {
    return length >= 1024 && length % 1024 == 0 ? cat(length / 1024, "K") : human_count(length);
}

/// All lengths of one task, one method and one budget.
struct Grid {
    std::string task;
    const SummaryRow* first = nullptr;
    std::vector<const SummaryRow*> rows = {};
};

std::vector<int64_t> lengths_of(const Section& section) {
    std::set<int64_t> lengths;
    for (const SectionTask& task : section.tasks) lengths.insert(task.asked.length);
    return {lengths.begin(), lengths.end()};
}

ReportFigure figure_of(const Grid& grid, const std::vector<int64_t>& lengths,
                       std::span<const double> depths) {
    HeatMap map = {.title = cat(grid.first->label, ": score in percent by length and depth"),
                   .columns = {},
                   .rows = {},
                   .values = std::vector<double>(lengths.size() * depths.size(), -1)};
    for (const int64_t length : lengths) map.columns.push_back(short_length(length));
    for (const double depth : depths) map.rows.push_back(fixed(100 * depth, 0) + " %");
    double sum = 0;
    double n = 0;
    for (const SummaryRow* row : grid.rows) {
        const auto column = std::ranges::lower_bound(lengths, row->asked.length) - lengths.begin();
        for (size_t d = 0; d < depths.size(); ++d) {
            const double score = row->score_by_depth[d];
            map.values[d * lengths.size() + static_cast<size_t>(column)] = score;
            if (score < 0) continue;
            sum += score;
            n += 1;
        }
    }
    const std::string mean = n > 0 ? cat(": ", percent(sum / n)) : "";
    return {.caption = grid.first->label + mean, .svg = heat_map_svg(map)};
}

bool is_in(const Grid& grid, const SummaryRow& row) {
    return grid.task == row.asked.task && grid.first->method == row.method;
}

void add_row(std::vector<Grid>& grids, const SummaryRow& row) {
    auto grid = std::ranges::find_if(grids, [&](const Grid& g) { return is_in(g, row); });
    if (grid == grids.end()) {
        grids.push_back({.task = row.asked.task, .first = &row});
        grid = std::prev(grids.end());
    }
    grid->rows.push_back(&row);
}

ReportPart maps_part(const Section& section, const std::string& budget,
                     std::span<const double> depths) {
    const std::vector<int64_t> lengths = lengths_of(section);
    ReportBlock block = {.is_small = true};
    std::vector<Grid> grids;
    for (const SummaryRow* row : rows_at(section, budget)) add_row(grids, *row);
    const bool has_tasks =
        std::ranges::any_of(grids, [&](const Grid& g) { return g.task != grids.front().task; });
    for (const Grid& grid : grids) {
        block.figures.push_back(figure_of(grid, lengths, depths));
        if (has_tasks) block.figures.back().caption += " (" + grid.task + ")";
    }
    const bool is_open = block.figures.size() <= kFiguresShown;
    return {.level = 4,
            .title = budget.empty() ? "Found, by length and depth"
                                    : cat("Found, by length and depth: ", budget),
            .blocks = {{.text = "Length of the text across, depth of the needle down (0 %: at the "
                                "beginning). Blue: found; red: not; beside the name, the mean."},
                       std::move(block)},
            .is_open = is_open};
}

}  // namespace

void add_needle_maps(ReportDocument& document, const Section& section,
                     std::span<const double> depths) {
    if (depths.empty()) return;
    for (const std::string& budget : section.budgets) {
        document.parts.push_back(maps_part(section, budget, depths));
    }
    if (section.budgets.empty()) document.parts.push_back(maps_part(section, "", depths));
}

}  // namespace palimpsest
