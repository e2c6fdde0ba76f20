#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "bench/tasks/task.h"

namespace palimpsest {

// What several metrics are made of.

/// The most that `compare` gives for a reference; 0 if there is none.
template <typename Compare>
double best_reference(const Sample& sample, Compare compare) {
    double most = 0;
    for (const std::string& reference : sample.references) {
        most = std::max(most, compare(reference));
    }
    return most;
}

/// The length of a longest common subsequence of two texts, or of two lists of words.
template <typename Sequence>
size_t common_length(const Sequence& a, const Sequence& b) {
    std::vector<size_t> row(b.size() + 1, 0);
    for (const auto& one : a) {
        size_t diagonal = 0;
        for (size_t j = 1; j <= b.size(); ++j) {
            const size_t above = row[j];
            row[j] = one == b[j - 1] ? diagonal + 1 : std::max(above, row[j - 1]);
            diagonal = above;
        }
    }
    return row.back();
}

}  // namespace palimpsest
