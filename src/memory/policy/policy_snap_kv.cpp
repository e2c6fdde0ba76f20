// Keeps what the last queries attend to.
//
// SnapKV (Li et al., 2024, arXiv:2404.14469): attention of the last `window` queries, averaged over
// them, smoothed over `kernel` neighbours, averaged over the heads that share the entries. With
// the allocator `pyramid` it is PyramidKV (Cai et al., 2024, arXiv:2406.02069).

#include <algorithm>

#include "memory/policy/observation.h"
#include "memory/policy/policies.h"

namespace palimpsest {

namespace {

class SnapKv final : public EvictionPolicy {
 public:
    explicit SnapKv(const PartInputs& in)
        : window_(in.options.integer("window", 64, 1, 4096)),
          kernel_(in.options.integer("kernel", 5, 1, 1023)),
          queries_(in.observers.add<QueryWindow>(in.shape, window_)) {}

    [[nodiscard]] int64_t n_recent() const override { return window_; }
    [[nodiscard]] Scores score(const LayerView& held, const Observers& noted) const override {
        return window_scores(noted[queries_], held, window_, kernel_);
    }

 private:
    int64_t window_, kernel_;
    Noted<QueryWindow> queries_;
};

}  // namespace

void smooth(std::span<float> values, int64_t kernel) {
    const int64_t n = std::ssize(values);
    const int64_t before = kernel / 2;
    std::vector<float> pooled(values.size());
    for (int64_t i = 0; i < n; ++i) {
        float sum = 0;
        const int64_t end = std::min(n, i - before + kernel);
        for (int64_t j = std::max<int64_t>(0, i - before); j < end; ++j) {
            sum += values[static_cast<size_t>(j)];
        }
        pooled[static_cast<size_t>(i)] = sum / static_cast<float>(kernel);
    }
    std::ranges::copy(pooled, values.begin());
}

Scores window_scores(const QueryWindow& queries, const LayerView& held, int64_t window,
                     int64_t kernel) {
    Scores scores;
    float best = 0;
    const auto divisor =
        static_cast<float>(std::max<int64_t>(1, queries.count()) * held.shape->group());
    for (size_t h = 0; h < held.heads.size(); ++h) {
        const auto positions = held.heads[h].positions;
        std::vector<float>& of =
            scores.emplace_back(queries.attention(held, static_cast<int64_t>(h), Reduce::kSum));
        const auto inside = std::ranges::lower_bound(positions, held.n_seen - window);
        of.resize(static_cast<size_t>(inside - positions.begin()));
        for (float& x : of) x /= divisor;
        smooth(of, kernel);
        for (const float x : of) best = std::max(best, x);
    }
    for (size_t h = 0; h < held.heads.size(); ++h) {
        scores[h].resize(held.heads[h].positions.size(), best + 1);
    }
    return scores;
}

MadePolicy make_snap_kv(const PartInputs& in) { return std::make_unique<SnapKv>(in); }

}  // namespace palimpsest
