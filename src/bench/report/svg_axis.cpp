#include "bench/report/svg_axis.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include "core/numbers.h"

namespace palimpsest {

namespace {

constexpr double kMostTicks = 6;
/// A logarithmic axis over less than this is better drawn as a linear one.
constexpr double kLeastLogRange = 5;

/// 1, 2 or 5 times a power of ten: the smallest that is not below `least`.
double round_step(double least) {
    const double power = std::pow(10.0, std::floor(std::log10(least)));
    for (const double factor : {1.0, 2.0, 5.0}) {
        if (factor * power >= least * (1 - 1e-9)) return factor * power;
    }
    return 10 * power;
}

}  // namespace

PlacedAxis::PlacedAxis(ChartAxis axis, const std::vector<double>& values, AxisEnds ends)
    : axis_(std::move(axis)), ends_(ends) {
    const auto [least, most] = std::ranges::minmax_element(values);
    low_ = *least;
    high_ = *most;
    if (axis_.low != axis_.high) {
        low_ = std::min(low_, axis_.low);
        high_ = std::max(high_, axis_.high);
    }
    axis_.is_log = axis_.is_log && low_ > 0 && high_ >= kLeastLogRange * low_;
    if (high_ <= low_) {  // one value: in the middle
        const double around = low_ == 0 ? 1 : std::abs(low_) / 2;
        low_ -= around;
        high_ += around;
    } else if (axis_.is_log) {
        low_ /= 1.05;
        high_ *= 1.05;
    } else if (axis_.low == axis_.high) {
        const double around = 0.03 * (high_ - low_);
        if (low_ > 0) low_ = std::max(0.0, low_ - around);
        high_ += around;
    }
    if (axis_.is_falling) std::swap(ends_.from, ends_.to);
}

double PlacedAxis::place(double value) const {
    const double share = axis_.is_log ? std::log(value / low_) / std::log(high_ / low_)
                                      : (value - low_) / (high_ - low_);
    return std::lerp(ends_.from, ends_.to, share);
}

std::vector<double> PlacedAxis::ticks() const {
    return axis_.is_log ? log_ticks() : linear_ticks();
}

std::vector<double> PlacedAxis::linear_ticks() const {
    const double step = round_step((high_ - low_) / kMostTicks);
    std::vector<double> ticks;
    const auto first = static_cast<int64_t>(std::ceil(low_ / step - 1e-9));
    const auto last = static_cast<int64_t>(std::floor(high_ / step + 1e-9));
    for (int64_t i = first; i <= last; ++i) ticks.push_back(static_cast<double>(i) * step);
    return ticks;
}

std::vector<double> PlacedAxis::log_ticks() const {
    const bool has_between = std::log10(high_ / low_) <= 2.5;
    const auto first = static_cast<int>(std::floor(std::log10(low_)));
    const auto last = static_cast<int>(std::floor(std::log10(high_)));
    std::vector<double> ticks;
    for (int power = first; power <= last; ++power) {
        for (const double factor : {1.0, 2.0, 5.0}) {
            const double tick = factor * std::pow(10.0, power);
            if ((factor == 1 || has_between) && tick >= low_ && tick <= high_)
                ticks.push_back(tick);
        }
    }
    return ticks;
}

std::string PlacedAxis::text(double value) const {
    const double size = std::abs(value);
    if (size >= 1000) return human_count(std::llround(value)) + axis_.unit;
    int digits = size >= 99.95 || size == 0 ? 0 : 1;
    if (size > 0 && size < 1)
        digits = std::min(8, 1 - static_cast<int>(std::floor(std::log10(size))));
    std::string text = fixed(value, digits);
    if (digits > 0) {
        text.erase(text.find_last_not_of('0') + 1);
        if (text.ends_with('.')) text.pop_back();
    }
    return text + axis_.unit;
}

}  // namespace palimpsest
