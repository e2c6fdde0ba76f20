// The same for every head of every layer.

#include "memory/eviction/allocation.h"

namespace palimpsest {

namespace {

class Uniform final : public BudgetAllocator {
 public:
    [[nodiscard]] std::vector<std::vector<int64_t>> allocate(
        std::span<const LayerCandidates> layers, const CutTarget& target) const override {
        std::vector<std::vector<int64_t>> counts;
        for (const LayerCandidates& layer : layers) {
            counts.emplace_back(layer.scores.size(), target.entries);
        }
        return counts;
    }
};

}  // namespace

std::unique_ptr<BudgetAllocator> make_uniform(const PartInputs& /*in*/) {
    return std::make_unique<Uniform>();
}

}  // namespace palimpsest
