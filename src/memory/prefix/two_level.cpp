#include "memory/prefix/two_level.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "memory/kernels/k_means.h"

namespace palimpsest {

namespace {

constexpr float kLeast = -std::numeric_limits<float>::infinity();

/// Moves rows: row i becomes what row order[i] was.
template <typename T>
void reorder(std::vector<T>& rows, std::span<const int32_t> order) {
    const auto width = std::ssize(rows) / std::ssize(order);
    std::vector<T> moved;
    moved.reserve(rows.size());
    for (const int32_t from : order) {
        const auto row = rows.begin() + from * width;
        moved.insert(moved.end(), row, row + width);
    }
    rows = std::move(moved);
}

/// A score that is at least as large as those of the n nearest lists. What is not a number is far
/// from everything.
float threshold(std::span<float> scores, int64_t n) {
    for (float& s : scores) {
        if (!(s > kLeast)) s = kLeast;
    }
    if (n >= std::ssize(scores)) return kLeast;
    std::vector<float> nearest(static_cast<size_t>(n));
    std::ranges::partial_sort_copy(scores, nearest, std::greater());
    return nearest.back();
}

}  // namespace

int64_t lists_for(int64_t n_entries) {
    const double n = std::sqrt(static_cast<double>(kListsOpened * n_entries));
    return std::clamp<int64_t>(std::llround(n), 1, n_entries);
}

bool lists_pay(int64_t n_entries, int64_t width) {
    return n_entries >= 2048 && n_entries * width >= int64_t{256} * 1024;
}

EntryLists put_in_lists(const Backend& backend, Codebook& book, uint64_t seed) {
    const int64_t width = book.width();
    const Clustering lists =
        k_means(backend, book.directions(), width,
                {.k = lists_for(book.size()), .seed = seed, .is_spherical = true});
    std::vector<int32_t> order(static_cast<size_t>(book.size()));
    std::iota(order.begin(), order.end(), 0);
    const auto list_of = [&](int32_t i) { return lists.nearest[static_cast<size_t>(i)]; };
    std::ranges::stable_sort(order, {}, list_of);
    EntryLists made;
    std::vector<float> directions;
    for (size_t i = 0; i < order.size(); ++i) {
        const int32_t list = list_of(order[i]);
        if (i > 0 && list == list_of(order[i - 1])) continue;
        made.start.push_back(static_cast<int32_t>(i));
        const auto from = lists.centroids.begin() + list * width;
        directions.insert(directions.end(), from, from + width);
    }
    made.start.push_back(static_cast<int32_t>(order.size()));
    made.directions = book.keys_towards(directions);
    for (std::vector<float>* part : {&book.queries, &book.outputs, &book.lse, &book.radius}) {
        reorder(*part, order);
    }
    reorder(book.count, order);
    return made;
}

void best_in_lists(const MatchKeys& keys, const KeyLists& lists, const float* queries,
                   int64_t stride, int64_t n_opened, std::span<Match> best) {
    const auto n = static_cast<size_t>(lists.directions.n);
    const auto padded = static_cast<size_t>(lists.directions.n_tiles() * kMatchTile);
    std::vector<float> scores(padded * best.size());
    all_matches(lists.directions, queries, stride, scores);
    for (size_t r = 0; r < best.size(); ++r) {
        const auto of_row = std::span(scores).subspan(r * padded, n);
        const float least = threshold(of_row, n_opened);
        int64_t done = 0;  // tiles: two lists may share one
        for (size_t i = 0; i < n; ++i) {
            if (of_row[i] < least) continue;
            const int64_t begin = std::max(done, lists.start[i] / kMatchTile);
            done = (lists.start[i + 1] + kMatchTile - 1) / kMatchTile;
            if (begin == done) continue;
            best_matches(keys, queries + static_cast<int64_t>(r) * stride, stride, begin, done,
                         best.subspan(r, 1));
        }
    }
}

}  // namespace palimpsest
