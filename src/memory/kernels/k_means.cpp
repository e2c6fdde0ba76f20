#include "memory/kernels/k_means.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <string_view>
#include <unordered_set>

#include "core/error.h"
#include "memory/kernels/match_kernel.h"

namespace palimpsest {

namespace {

constexpr int64_t kPointsAtOnce = 240;  // of one piece of work

std::string_view bytes_of(std::span<const float> row) {
    return {reinterpret_cast<const char*>(row.data()), row.size_bytes()};
}

class Lloyd {
 public:
    Lloyd(const Backend& backend, std::span<const float> points, int64_t d)
        : backend_(backend), points_(points), d_(d), n_(std::ssize(points) / d) {
        squared_.resize(static_cast<size_t>(n_));
        for (int64_t i = 0; i < n_; ++i) {
            double sum = 0;
            for (const float x : point(i)) sum += double{x} * double{x};
            squared_[static_cast<size_t>(i)] = static_cast<float>(sum);
        }
    }

    [[nodiscard]] int64_t size() const { return n_; }
    [[nodiscard]] std::span<const float> point(int64_t i) const {
        return points_.subspan(static_cast<size_t>(i * d_), static_cast<size_t>(d_));
    }

    /// Up to k different points, in the order that the seed shuffles them into.
    [[nodiscard]] std::vector<float> pick(int64_t k, uint64_t seed) const {
        std::vector<int64_t> order(static_cast<size_t>(n_));
        std::iota(order.begin(), order.end(), 0);
        std::mt19937_64 random(seed);
        std::unordered_set<std::string_view> seen;
        std::vector<float> picked;
        for (size_t i = 0; i < order.size() && std::ssize(seen) < k; ++i) {
            // std::shuffle is not the same everywhere.
            std::swap(order[i], order[i + random() % (order.size() - i)]);
            const std::span<const float> row = point(order[i]);
            if (!seen.insert(bytes_of(row)).second) continue;
            picked.insert(picked.end(), row.begin(), row.end());
        }
        return picked;
    }

    /// Every point's nearest centroid. Returns how many changed.
    int64_t assign(const std::vector<float>& centroids, std::vector<int32_t>& nearest) {
        const int64_t k = std::ssize(centroids) / d_;
        std::vector<std::byte> tiles(match_bytes(GGML_TYPE_F32, k, d_));
        to_tiles(centroids, d_, GGML_TYPE_F32, tiles);
        // |x - c|^2 is least where x.c - |c|^2 / 2 is largest.
        std::vector<float> bias(static_cast<size_t>(k));
        for (int64_t j = 0; j < k; ++j) {
            double sum = 0;
            for (int64_t c = 0; c < d_; ++c) {
                const double x = centroids[static_cast<size_t>(j * d_ + c)];
                sum += x * x;
            }
            bias[static_cast<size_t>(j)] = static_cast<float>(-sum / 2);
        }
        const MatchKeys keys = {.type = GGML_TYPE_F32,
                                .tiles = tiles.data(),
                                .scale = nullptr,
                                .bias = bias.data(),
                                .n = k,
                                .d = d_};
        score_.resize(static_cast<size_t>(n_));
        std::atomic<int64_t> next = 0;
        std::atomic<int64_t> changed = 0;
        backend_.on_all_threads([&](int /*thread*/, int /*n_threads*/) {
            std::vector<Match> best(static_cast<size_t>(kPointsAtOnce));
            for (int64_t at = kPointsAtOnce * next++; at < n_; at = kPointsAtOnce * next++) {
                const auto count = static_cast<size_t>(std::min(kPointsAtOnce, n_ - at));
                std::fill_n(best.begin(), count, Match{});
                best_matches(keys, points_.data() + at * d_, d_, 0, keys.n_tiles(),
                             std::span(best).first(count));
                int64_t moved = 0;
                for (size_t i = 0; i < count; ++i) {
                    const auto to = static_cast<int32_t>(best[i].index);
                    const size_t p = static_cast<size_t>(at) + i;
                    moved += to != nearest[p] ? 1 : 0;
                    nearest[p] = to;
                    score_[p] = best[i].score;
                }
                changed += moved;
            }
        });
        return changed;
    }

    /// Every centroid to the mean of its points, summed in their order.
    void move(const std::vector<int32_t>& nearest, std::vector<float>& centroids) const {
        const int64_t k = std::ssize(centroids) / d_;
        const std::vector<std::vector<int32_t>> members = members_of(nearest, k);
        std::atomic<int64_t> next = 0;
        backend_.on_all_threads([&](int /*thread*/, int /*n_threads*/) {
            std::vector<double> sum(static_cast<size_t>(d_));
            for (int64_t j = next++; j < k; j = next++) {
                const auto& of = members[static_cast<size_t>(j)];
                if (of.empty()) continue;
                std::ranges::fill(sum, 0.0);
                for (const int32_t i : of) {
                    const std::span<const float> row = point(i);
                    for (size_t c = 0; c < sum.size(); ++c) sum[c] += double{row[c]};
                }
                for (size_t c = 0; c < sum.size(); ++c) {
                    centroids[static_cast<size_t>(j * d_) + c] =
                        static_cast<float>(sum[c] / static_cast<double>(of.size()));
                }
            }
        });
        reseed(members, centroids);
    }

 private:
    static std::vector<std::vector<int32_t>> members_of(const std::vector<int32_t>& nearest,
                                                        int64_t k) {
        std::vector<std::vector<int32_t>> members(static_cast<size_t>(k));
        for (size_t i = 0; i < nearest.size(); ++i) {
            members[static_cast<size_t>(nearest[i])].push_back(static_cast<int32_t>(i));
        }
        return members;
    }

    void reseed(const std::vector<std::vector<int32_t>>& members,
                std::vector<float>& centroids) const {
        const auto n_empty =
            std::ranges::count_if(members, [](const auto& of) { return of.empty(); });
        if (n_empty == 0) return;
        // Those farthest from their centroid: |x|^2 - 2 score, largest first.
        std::vector<int32_t> order(static_cast<size_t>(n_));
        std::iota(order.begin(), order.end(), 0);
        const auto distance = [&](int32_t i) {
            return squared_[static_cast<size_t>(i)] - 2 * score_[static_cast<size_t>(i)];
        };
        const auto n_wanted = std::min<int64_t>(n_empty, n_);
        std::partial_sort(order.begin(), order.begin() + n_wanted, order.end(),
                          [&](int32_t a, int32_t b) {
                              const float da = distance(a);
                              const float db = distance(b);
                              return da != db ? da > db : a < b;
                          });
        size_t at = 0;
        for (size_t j = 0; j < members.size() && at < order.size(); ++j) {
            if (!members[j].empty()) continue;
            std::ranges::copy(point(order[at++]),
                              centroids.begin() + static_cast<std::ptrdiff_t>(j) * d_);
        }
    }

    const Backend& backend_;
    std::span<const float> points_;
    int64_t d_, n_;
    std::vector<float> squared_;  // [n]: |x|^2
    std::vector<float> score_;    // [n]: of the last assignment
};

/// Every so-maniest point: at most `most` of them.
std::vector<float> thinned(std::span<const float> points, int64_t d, int64_t most) {
    const int64_t n = std::ssize(points) / d;
    std::vector<float> some(static_cast<size_t>(most * d));
    for (int64_t i = 0; i < most; ++i) {
        const int64_t from = i * n / most;
        std::copy_n(points.begin() + from * d, d, some.begin() + i * d);
    }
    return some;
}

void to_unit_length(std::vector<float>& rows, int64_t d) {
    for (size_t at = 0; at < rows.size(); at += static_cast<size_t>(d)) {
        const auto row = std::span(rows).subspan(at, static_cast<size_t>(d));
        double sum = 0;
        for (const float x : row) sum += double{x} * double{x};
        const auto by = static_cast<float>(std::sqrt(sum));
        for (float& x : row) x = by > 0 ? x / by : 0;
    }
}

}  // namespace

Clustering k_means(const Backend& backend, std::span<const float> points, int64_t d,
                   const KMeansOptions& options) {
    check(d > 0 && !points.empty() && std::ssize(points) % d == 0, "points in whole rows");
    require(options.k >= 1, options.k, " clusters; there must be at least 1");
    const int64_t n = std::ssize(points) / d;
    std::vector<float> some;
    if (options.most_points > 0 && options.most_points < n) {
        some = thinned(points, d, options.most_points);
    }
    Lloyd lloyd(backend, some.empty() ? points : std::span<const float>(some), d);
    Clustering result;
    result.centroids = lloyd.pick(options.k, options.seed);
    result.nearest.assign(static_cast<size_t>(lloyd.size()), -1);
    const auto few = static_cast<int64_t>(options.converged * static_cast<double>(lloyd.size()));
    bool is_done = false;
    while (!is_done && result.rounds < options.max_rounds) {
        ++result.rounds;
        is_done = lloyd.assign(result.centroids, result.nearest) <= few;
        if (is_done) break;
        lloyd.move(result.nearest, result.centroids);
        if (options.is_spherical) to_unit_length(result.centroids, d);
    }
    if (some.empty()) {
        if (!is_done) lloyd.assign(result.centroids, result.nearest);
        return result;
    }
    result.nearest.assign(static_cast<size_t>(n), -1);
    Lloyd(backend, points, d).assign(result.centroids, result.nearest);
    return result;
}

}  // namespace palimpsest
