#pragma once

#include <string>
#include <vector>

#include "bench/report/svg_chart.h"

namespace palimpsest {

/// Where an axis begins and ends in a drawing.
struct AxisEnds {
    double from = 0, to = 0;
};

/// An axis with its range decided: places values in a drawing, and knows round ones to name.
class PlacedAxis {
 public:
    /// `values`: all that will be placed. An axis is logarithmic only if they allow it.
    PlacedAxis(ChartAxis axis, const std::vector<double>& values, AxisEnds ends);

    [[nodiscard]] double place(double value) const;
    [[nodiscard]] std::vector<double> ticks() const;
    /// A value with few digits and the axis's unit.
    [[nodiscard]] std::string text(double value) const;

 private:
    [[nodiscard]] std::vector<double> linear_ticks() const;
    [[nodiscard]] std::vector<double> log_ticks() const;

    ChartAxis axis_;
    double low_ = 0, high_ = 1;
    AxisEnds ends_;
};

}  // namespace palimpsest
