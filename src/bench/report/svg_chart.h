#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace palimpsest {

// Charts as SVG text for a page of ours: they scale with their frame, take their colours from the
// page's style (classes s0 to s8, h0 to h10), and say in words what a pointer is over.

/// `text` for use in XML and HTML: markup escaped, control characters and invalid UTF-8 replaced.
std::string escape_markup(std::string_view text);

struct ChartPoint {
    double x = 0, y = 0;
};

struct ChartSeries {
    std::string label;
    int colour = 0;  // 1 to 8, each with a marker of its own; 0: grey, in the background
    bool is_dashed = false;
    std::vector<ChartPoint> points;
};

struct ChartAxis {
    std::string title = {};
    std::string unit = {};     // after every tick: " %"
    bool is_log = false;       // only if all values are above 0
    bool is_falling = false;   // large values first
    double low = 0, high = 0;  // must be shown; low == high: what the values need
};

struct LineChart {
    std::string title;  // for those who cannot see it
    ChartAxis x, y;
    std::vector<ChartSeries> series;
    double reference = 0;  // a dashed line at this y, if it has a label
    std::string reference_label = {};
};

/// Lines with their names beside their ends. "" if there is no point.
std::string line_chart_svg(const LineChart& chart);

/// Values from 0 to 100; below 0: none.
struct HeatMap {
    std::string title;
    std::vector<std::string> columns, rows;
    std::vector<double> values;  // row after row
};

std::string heat_map_svg(const HeatMap& map);

/// The class, 0 to 10, of a value from 0 to 100.
int heat_class(double value);

}  // namespace palimpsest
