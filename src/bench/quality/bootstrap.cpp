#include "bench/quality/bootstrap.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "core/error.h"

namespace palimpsest {

namespace {

constexpr int kResamples = 2000;
constexpr double kTail = 0.025;

/// SplitMix64 (Steele, Lea, Flood 2014): a few instructions a draw, the same on every machine.
class Draw {
 public:
    /// From 0 to n - 1. The bias, n / 2^32, is far below what 2,000 resamples can show.
    size_t below(size_t n) {
        state_ += 0x9e3779b97f4a7c15U;
        uint64_t z = state_;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
        z ^= z >> 31;
        return ((z >> 32) * n) >> 32;
    }

 private:
    uint64_t state_ = 42;
};

double mean_of(std::span<const double> values) {
    double sum = 0;
    for (const double v : values) sum += v;
    return sum / static_cast<double>(values.size());
}

/// Linear between the nearest two of sorted values.
double quantile(const std::vector<double>& sorted, double share) {
    const double at = share * static_cast<double>(sorted.size() - 1);
    const auto below = static_cast<size_t>(at);
    const size_t above = std::min(below + 1, sorted.size() - 1);
    return std::lerp(sorted[below], sorted[above], at - static_cast<double>(below));
}

Interval interval_of(double mean, std::vector<double> resampled) {
    if (resampled.empty()) return {.mean = mean, .low = mean, .high = mean};
    std::ranges::sort(resampled);
    // Summed in another order, equal values may miss their mean by a rounding: it lies within.
    return {.mean = mean,
            .low = std::min(mean, quantile(resampled, kTail)),
            .high = std::max(mean, quantile(resampled, 1 - kTail))};
}

/// mean(method) / mean(full) of one resample; not finite if the full cache's mean is 0.
double resampled_ratio(const PairedScores& task, Draw& draw) {
    double method = 0;
    double full = 0;
    for (size_t i = 0; i < task.full.size(); ++i) {
        const size_t at = draw.below(task.full.size());
        method += task.method[at];
        full += task.full[at];
    }
    return full > 0 ? method / full : std::numeric_limits<double>::infinity();
}

}  // namespace

Interval bootstrap_mean(std::span<const double> values) {
    check(!values.empty(), "an interval of no values");
    Draw draw;
    std::vector<double> means(kResamples);
    for (double& mean : means) {
        double sum = 0;
        for (size_t i = 0; i < values.size(); ++i) sum += values[draw.below(values.size())];
        mean = sum / static_cast<double>(values.size());
    }
    return interval_of(mean_of(values), std::move(means));
}

std::optional<Interval> bootstrap_mean_ratio(std::span<const PairedScores> tasks) {
    if (tasks.empty()) return std::nullopt;
    double sum = 0;
    for (const PairedScores& task : tasks) {
        check(task.method.size() == task.full.size(), "scores are not paired");
        if (task.full.empty() || mean_of(task.full) <= 0) return std::nullopt;
        sum += mean_of(task.method) / mean_of(task.full);
    }
    const auto n_task = static_cast<double>(tasks.size());
    Draw draw;
    std::vector<double> means;
    means.reserve(kResamples);
    for (int i = 0; i < kResamples; ++i) {
        double ratios = 0;
        for (const PairedScores& task : tasks) ratios += resampled_ratio(task, draw);
        if (std::isfinite(ratios)) means.push_back(ratios / n_task);
    }
    return interval_of(sum / n_task, std::move(means));
}

std::optional<Interval> bootstrap_ratio(std::span<const double> method,
                                        std::span<const double> full) {
    const PairedScores task = {.method = method, .full = full};
    return bootstrap_mean_ratio({&task, 1});
}

}  // namespace palimpsest
