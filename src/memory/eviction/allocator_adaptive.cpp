// The heads of a layer compete for the layer's budget; a share of it is safe for each
// (AdaKV: Feng et al., 2024, arXiv:2407.11550).

#include <algorithm>

#include "memory/eviction/allocation.h"

namespace palimpsest {

namespace {

class Adaptive final : public BudgetAllocator {
 public:
    explicit Adaptive(OptionReader& options)
        : safe_share_(options.number("safeguard", 0.2, 0, 1)) {}

    [[nodiscard]] std::vector<std::vector<int64_t>> allocate(
        std::span<const LayerCandidates> layers, const CutTarget& target) const override {
        const auto safe = std::max<int64_t>(
            1, static_cast<int64_t>(static_cast<double>(target.entries) * safe_share_));
        std::vector<std::vector<int64_t>> counts;
        for (const LayerCandidates& layer : layers) {
            const int64_t total = target.entries * std::ssize(layer.scores);
            counts.push_back(count_best(std::span(&layer, 1), total, safe, target.most).front());
        }
        return counts;
    }

 private:
    double safe_share_;
};

}  // namespace

std::unique_ptr<BudgetAllocator> make_adaptive(const PartInputs& in) {
    return std::make_unique<Adaptive>(in.options);
}

}  // namespace palimpsest
