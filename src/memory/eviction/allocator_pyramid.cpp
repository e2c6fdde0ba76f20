// Layer budgets that fall in equal steps from the first layer to the last
// (PyramidKV: Cai et al., 2024, arXiv:2406.02069; the arithmetic is that of kvpress).

#include <algorithm>
#include <cmath>

#include "memory/eviction/allocation.h"

namespace palimpsest {

namespace {

class Pyramid final : public BudgetAllocator {
 public:
    explicit Pyramid(OptionReader& options) : beta_(options.number("beta", 20.0, 1.0, 1e6)) {}

    [[nodiscard]] std::vector<std::vector<int64_t>> allocate(
        std::span<const LayerCandidates> layers, const CutTarget& target) const override {
        std::vector<int64_t> of_layer;
        for (size_t l = 0; l < layers.size(); ++l) {
            of_layer.push_back(budget(l, layers.size(), layers[l].view.n_seen, target));
        }
        // A hard budget may not be passed by rounding: the largest layers give the excess back.
        int64_t excess = -target.entries * std::ssize(layers);
        for (const int64_t n : of_layer) excess += n;
        for (; target.is_cap && excess > 0; --excess) --*std::ranges::max_element(of_layer);
        std::vector<std::vector<int64_t>> counts;
        for (size_t l = 0; l < layers.size(); ++l) {
            counts.emplace_back(layers[l].scores.size(), of_layer[l]);
        }
        return counts;
    }

 private:
    [[nodiscard]] int64_t budget(size_t layer, size_t n_layer, int64_t n_seen,
                                 const CutTarget& target) const {
        const double c = target.exact;
        const auto window = static_cast<double>(target.n_protected);
        // No layer may hold more than there is room for.
        const auto length = static_cast<double>(std::min(n_seen, target.most));
        // Under a hard budget a layer may not fall below what is protected; the original falls back
        // to equal budgets where one would.
        double least = target.is_cap ? std::max(c / beta_, std::min(c, window + 1)) : c / beta_;
        double most = 2 * c - least;
        if (most >= length - window) {
            most = length - window;
            least = 2 * c - most;
        }
        // Rounds half to even, as the reference does.
        if (n_layer < 2 || !(length >= most && most >= least && least >= window)) {
            return static_cast<int64_t>(std::nearbyint(c));
        }
        const double step = (most - least) / static_cast<double>(n_layer - 1);
        return static_cast<int64_t>(std::nearbyint(most - static_cast<double>(layer) * step));
    }

    double beta_;
};

}  // namespace

std::unique_ptr<BudgetAllocator> make_pyramid(const PartInputs& in) {
    return std::make_unique<Pyramid>(in.options);
}

}  // namespace palimpsest
