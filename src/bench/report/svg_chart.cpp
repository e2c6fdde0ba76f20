#include "bench/report/svg_chart.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "bench/report/svg_axis.h"
#include "core/error.h"
#include "core/numbers.h"
#include "text/utf8.h"

namespace palimpsest {

namespace {

// In units of the drawing, which is as wide as a phone: text stays readable there.
constexpr double kWidth = 480;
constexpr double kHeight = 320;
constexpr double kLeft = 46;
constexpr double kRight = 322;  // names stand beyond
constexpr double kTop = 12;
constexpr double kBottom = 274;
constexpr double kNameHeight = 13;
constexpr size_t kLongestName = 19;  // characters that fit beside the plot

std::string number(double x) { return fixed(x, 1); }

/// Anything with a `class` that only holds text.
std::string text_at(double x, double y, std::string_view classes, std::string_view text) {
    return cat("<text x=\"", number(x), "\" y=\"", number(y), "\" class=\"", classes, "\">",
               escape_markup(text), "</text>");
}

std::string line_between(ChartPoint a, ChartPoint b, std::string_view classes) {
    return cat("<line x1=\"", number(a.x), "\" y1=\"", number(a.y), "\" x2=\"", number(b.x),
               "\" y2=\"", number(b.y), "\" class=\"", classes, "\"/>");
}

/// A shape of its own for every colour: who cannot tell the colours tells the shapes.
std::string_view marker_path(int colour) {
    constexpr std::array<std::string_view, 9> kPaths = {
        "m-2 0a2 2 0 1 0 4 0a2 2 0 1 0-4 0z",
        "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
        "m-3.5-3.5h7v7h-7z",
        "m0-4.5 4.5 8h-9z",
        "m0-5 5 5-5 5-5-5z",
        "m0 4.5 4.5-8h-9z",
        "m-1.4-4.5h2.8v3.1h3.1v2.8h-3.1v3.1h-2.8v-3.1h-3.1v-2.8h3.1z",
        "m0-5 1.5 3.4 3.5.3-2.6 2.5.8 3.7-3.2-2-3.2 2 .8-3.7-2.6-2.5 3.5-.3z",
        "m-4.5-2.2h9v4.4h-9z"};
    return kPaths.at(static_cast<size_t>(colour));
}

std::string marker(ChartPoint at, int colour, std::string_view title) {
    std::string out =
        cat("<path d=\"M", number(at.x), " ", number(at.y), marker_path(colour), "\" class=\"m\">");
    if (!title.empty()) out += cat("<title>", escape_markup(title), "</title>");
    return out + "</path>";
}

class LineChartDrawing {
 public:
    explicit LineChartDrawing(const LineChart& chart)
        : chart_(chart),
          x_(chart.x, values(&ChartPoint::x), {kLeft, kRight}),
          y_(chart.y, values(&ChartPoint::y), {kBottom, kTop}) {}

    std::string draw() {
        std::string out =
            cat("<svg viewBox=\"0 0 ", kWidth, " ", kHeight,
                "\" role=\"img\" class=\"chart\"><title>", escape_markup(chart_.title), "</title>");
        out += axes() + reference();
        for (const bool is_front : {false, true}) {
            for (const ChartSeries& s : chart_.series) {
                if ((s.colour > 0) == is_front) out += line(s);
            }
        }
        return out + names() + "</svg>";
    }

 private:
    [[nodiscard]] std::vector<double> values(double ChartPoint::*coordinate) const {
        std::vector<double> all;
        for (const ChartSeries& s : chart_.series) {
            for (const ChartPoint& p : s.points) all.push_back(p.*coordinate);
        }
        return all;
    }

    [[nodiscard]] ChartPoint place(ChartPoint p) const { return {x_.place(p.x), y_.place(p.y)}; }

    [[nodiscard]] std::string axes() const {
        std::string out;
        for (const double tick : y_.ticks()) {
            const double y = y_.place(tick);
            out += line_between({kLeft, y}, {kRight, y}, "grid");
            out += text_at(kLeft - 6, y + 4, "tick end", y_.text(tick));
        }
        for (const double tick : x_.ticks()) {
            const double x = x_.place(tick);
            out += line_between({x, kBottom}, {x, kBottom + 4}, "axis");
            out += text_at(x, kBottom + 17, "tick mid", x_.text(tick));
        }
        out += line_between({kLeft, kBottom}, {kRight, kBottom}, "axis");
        out += text_at((kLeft + kRight) / 2, kBottom + 36, "name mid", chart_.x.title);
        return out;
    }

    [[nodiscard]] std::string reference() const {
        if (chart_.reference_label.empty()) return "";
        const double y = y_.place(chart_.reference);
        return line_between({kLeft, y}, {kRight, y}, "reference") +
               text_at(kRight, y - 4, "tick end", chart_.reference_label);
    }

    [[nodiscard]] std::string line(const ChartSeries& s) const {
        if (s.points.empty()) return "";
        std::string out =
            cat("<g class=\"s", s.colour, s.is_dashed ? " dashed" : "", "\"><polyline points=\"");
        for (const ChartPoint& p : s.points) {
            const ChartPoint at = place(p);
            out += cat(number(at.x), ",", number(at.y), " ");
        }
        out += "\" class=\"l\"/>";
        for (const ChartPoint& p : s.points) {
            out +=
                marker(place(p), s.colour, cat(s.label, ": ", y_.text(p.y), " at ", x_.text(p.x)));
        }
        return out + "</g>";
    }

    struct Name {
        const ChartSeries* series;
        ChartPoint end;  // of its line, drawn
        double y;        // where it may stand
    };

    /// Those in front, and as many others as there is room for.
    [[nodiscard]] std::vector<Name> names_that_fit() const {
        const auto room = static_cast<size_t>((kBottom - kTop) / kNameHeight);
        std::vector<Name> names;
        for (const bool is_front : {true, false}) {
            for (const ChartSeries& s : chart_.series) {
                if (s.points.empty() || (s.colour > 0) != is_front) continue;
                if (names.size() >= room) break;
                ChartPoint end = place(s.points.front());
                for (const ChartPoint& p : s.points) {
                    if (place(p).x > end.x) end = place(p);
                }
                names.push_back({.series = &s, .end = end, .y = end.y});
            }
        }
        std::ranges::sort(names, {}, &Name::y);
        return names;
    }

    /// Moves names apart: down from the top, then up again from the bottom.
    static void spread(std::vector<Name>& names) {
        double least = kTop;
        for (Name& name : names) {
            name.y = std::max(name.y, least);
            least = name.y + kNameHeight;
        }
        double most = kBottom;
        for (auto name = names.rbegin(); name != names.rend(); ++name) {
            name->y = std::min(name->y, most);
            most = name->y - kNameHeight;
        }
    }

    [[nodiscard]] std::string names() const {
        std::vector<Name> names = names_that_fit();
        spread(names);
        std::string out;
        for (const Name& name : names) {
            const ChartSeries& s = *name.series;
            out += cat("<g class=\"s", s.colour, "\">");
            out += line_between(name.end, {kRight + 10, name.y}, "lead");
            out += marker({kRight + 15, name.y}, s.colour, "");
            std::string text = s.label;
            if (text.size() > kLongestName) {
                text.resize(kLongestName - 1);
                text.resize(text.size() - unfinished_utf8(text));
                text += "…";
            }
            out += text_at(kRight + 23, name.y + 4, s.colour > 0 ? "name strong" : "name", text);
            out += "</g>";
        }
        return out;
    }

    const LineChart& chart_;
    PlacedAxis x_, y_;
};

}  // namespace

std::string escape_markup(std::string_view text) {
    std::string out;
    for (const char c : replace_invalid_utf8(text)) {
        switch (c) {
            case '&':
                out += "&amp;";
                break;
            case '<':
                out += "&lt;";
                break;
            case '>':
                out += "&gt;";
                break;
            case '"':
                out += "&quot;";
                break;
            case '\'':
                out += "&#39;";
                break;
            case '\n':
            case '\t':
                out += c;
                break;
            default:
                if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
                    out += "\xEF\xBF\xBD";
                } else {
                    out += c;
                }
        }
    }
    return out;
}

std::string line_chart_svg(const LineChart& chart) {
    const bool has_points =
        std::ranges::any_of(chart.series, [](const ChartSeries& s) { return !s.points.empty(); });
    return has_points ? LineChartDrawing(chart).draw() : "";
}

int heat_class(double value) {
    return static_cast<int>(std::lround(std::clamp(value, 0.0, 100.0) / 10));
}

std::string heat_map_svg(const HeatMap& map) {
    constexpr double kLabels = 36;
    constexpr double kCellHeight = 13;
    const double cell = std::max(10.0, 150.0 / static_cast<double>(map.columns.size()));
    const double right = kLabels + cell * static_cast<double>(map.columns.size());
    const double bottom = kCellHeight * static_cast<double>(map.rows.size());
    std::string out =
        cat("<svg viewBox=\"0 0 ", number(right + 2), " ", number(bottom + 18),
            "\" role=\"img\" class=\"heat\"><title>", escape_markup(map.title), "</title>");
    for (size_t r = 0; r < map.rows.size(); ++r) {
        const double y = kCellHeight * static_cast<double>(r);
        out += text_at(kLabels - 4, y + 10, "tick end", map.rows[r]);
        for (size_t c = 0; c < map.columns.size(); ++c) {
            const double value = map.values[r * map.columns.size() + c];
            const std::string says = value < 0 ? "not asked" : fixed(value, 0);
            out += cat("<rect x=\"", number(kLabels + cell * static_cast<double>(c)), "\" y=\"",
                       number(y), "\" width=\"", number(cell - 1), "\" height=\"",
                       number(kCellHeight - 1), "\" class=\"",
                       value < 0 ? "none" : cat("h", heat_class(value)), "\"><title>",
                       escape_markup(cat(map.columns[c], ", ", map.rows[r], ": ", says)),
                       "</title></rect>");
        }
    }
    // As many names as do not touch.
    const size_t step = static_cast<size_t>(std::ceil(25.0 / cell));
    for (size_t c = 0; c < map.columns.size(); c += step) {
        out += text_at(kLabels + cell * (static_cast<double>(c) + 0.5), bottom + 12, "tick mid",
                       map.columns[c]);
    }
    return out + "</svg>";
}

}  // namespace palimpsest
