#pragma once

#include <optional>
#include <span>

namespace palimpsest {

/// A value and the range in which 95 of 100 resamples put it.
struct Interval {
    double mean = 0, low = 0, high = 0;
};

/// One task's scores under a method and under the full cache, sample by sample.
struct PairedScores {
    std::span<const double> method, full;
};

// Percentile bootstrap: 2,000 resamples, drawn by a generator with a constant seed, so that the
// same values give the same interval everywhere. Values that are all equal, few as they may be,
// give an interval of no width.

/// Of the mean. At least one value.
Interval bootstrap_mean(std::span<const double> values);

/// Of the mean, over tasks, of mean(method) / mean(full): samples are drawn anew within each task,
/// both scores of a sample together. nullopt if there is no task or a full cache's mean is 0.
/// Resamples in which a full cache's mean is 0 have no ratio and do not count.
std::optional<Interval> bootstrap_mean_ratio(std::span<const PairedScores> tasks);

/// The same, of one task.
std::optional<Interval> bootstrap_ratio(std::span<const double> method,
                                        std::span<const double> full);

}  // namespace palimpsest
