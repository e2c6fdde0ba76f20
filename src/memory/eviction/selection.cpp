#include "memory/eviction/selection.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace palimpsest {

namespace {

float comparable(float score) {
    return std::isnan(score) ? -std::numeric_limits<float>::infinity() : score;
}

/// Protected slots only, when not even they fit.
std::vector<int32_t> select_protected(const Choice& c, int64_t n) {
    std::vector<int32_t> slots;
    for (size_t i = 0; i < c.positions.size(); ++i) {
        if (c.is_protected[i] != 0) slots.push_back(static_cast<int32_t>(i));
    }
    int64_t sinks = 0;
    for (const int32_t i : slots) sinks += c.positions[static_cast<size_t>(i)] < c.n_sink ? 1 : 0;
    const int64_t first = std::min(sinks, n);
    const int64_t last = n - first;
    std::vector<int32_t> kept(slots.begin(), slots.begin() + first);
    kept.insert(kept.end(), slots.end() - last, slots.end());
    return kept;
}

/// Unprotected slots, best first as far as `n` of them.
std::vector<int32_t> best_slots(const Choice& c, int64_t n) {
    std::vector<int32_t> slots;
    for (size_t i = 0; i < c.positions.size(); ++i) {
        if (c.is_protected[i] == 0) slots.push_back(static_cast<int32_t>(i));
    }
    const auto before = [&](int32_t a, int32_t b) {
        const float x = comparable(c.scores[static_cast<size_t>(a)]);
        const float y = comparable(c.scores[static_cast<size_t>(b)]);
        return x != y ? x > y : a < b;
    };
    if (n < std::ssize(slots)) {
        std::nth_element(slots.begin(), slots.begin() + n, slots.end(), before);
        slots.resize(static_cast<size_t>(n));
    }
    return slots;
}

/// Whole runs, best first (by their first member's score), while they fit into `n` entries.
std::vector<int32_t> best_runs(const Choice& c, int64_t n) {
    struct Run {
        float score;
        std::vector<int32_t> slots;
    };
    std::vector<Run> runs;
    int64_t last = -1;
    for (size_t i = 0; i < c.positions.size(); ++i) {
        if (c.is_protected[i] != 0) continue;
        const int64_t id = c.positions[i] / c.run_length;
        if (runs.empty() || id != last) runs.push_back({comparable(c.scores[i]), {}});
        runs.back().slots.push_back(static_cast<int32_t>(i));
        last = id;
    }
    std::ranges::stable_sort(runs, std::greater{}, &Run::score);
    std::vector<int32_t> slots;
    for (const Run& run : runs) {
        if (std::ssize(slots) + std::ssize(run.slots) > n) break;
        slots.insert(slots.end(), run.slots.begin(), run.slots.end());
    }
    return slots;
}

}  // namespace

std::vector<uint8_t> Protection::mark(std::span<const int32_t> positions, int64_t n_seen) const {
    std::vector<uint8_t> marks(positions.size());
    size_t span = 0;
    for (size_t i = 0; i < positions.size(); ++i) {
        const int64_t p = positions[i];
        while (span < pinned.size() && pinned[span].second <= p) ++span;
        const bool is_pinned = span < pinned.size() && pinned[span].first <= p;
        marks[i] = p < n_sink || p >= n_seen - n_recent || is_pinned ? 1 : 0;
    }
    return marks;
}

int64_t Protection::count(int64_t n_seen) const {
    const int64_t recent_begin = std::max<int64_t>(n_sink, n_seen - n_recent);
    int64_t n = std::min(n_sink, n_seen) + std::max<int64_t>(0, n_seen - recent_begin);
    for (const auto& [begin, end] : pinned) {
        n += std::max<int64_t>(0, std::min(end, recent_begin) - std::max(begin, n_sink));
    }
    return n;
}

std::vector<int32_t> select_entries(const Choice& c, int64_t n) {
    const int64_t total = std::ssize(c.positions);
    std::vector<int32_t> kept;
    if (n >= total) {
        kept.resize(static_cast<size_t>(total));
        std::iota(kept.begin(), kept.end(), 0);
        return kept;
    }
    const int64_t n_protected =
        std::accumulate(c.is_protected.begin(), c.is_protected.end(), int64_t{0});
    if (n_protected >= n) return select_protected(c, n);
    kept = c.run_length > 1 ? best_runs(c, n - n_protected) : best_slots(c, n - n_protected);
    for (size_t i = 0; i < c.is_protected.size(); ++i) {
        if (c.is_protected[i] != 0) kept.push_back(static_cast<int32_t>(i));
    }
    std::ranges::sort(kept);
    return kept;
}

std::vector<int32_t> complement(std::span<const int32_t> kept, int64_t n) {
    std::vector<int32_t> rest;
    rest.reserve(static_cast<size_t>(n) - kept.size());
    size_t k = 0;
    for (int64_t i = 0; i < n; ++i) {
        if (k < kept.size() && kept[k] == i) {
            ++k;
        } else {
            rest.push_back(static_cast<int32_t>(i));
        }
    }
    return rest;
}

}  // namespace palimpsest
