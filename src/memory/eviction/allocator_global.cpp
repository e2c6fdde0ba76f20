// All heads of all layers compete for one budget (as KVzip does: Kim et al., 2025,
// arXiv:2505.23416).

#include "memory/eviction/allocation.h"

namespace palimpsest {

namespace {

class Global final : public BudgetAllocator {
 public:
    [[nodiscard]] std::vector<std::vector<int64_t>> allocate(
        std::span<const LayerCandidates> layers, const CutTarget& target) const override {
        int64_t n_heads = 0;
        int64_t n_entries = 0;
        for (const LayerCandidates& layer : layers) {
            n_heads += std::ssize(layer.scores);
            for (const auto& head : layer.scores) n_entries += std::ssize(head);
        }
        int64_t total = target.entries * n_heads;
        if (!target.is_cap) {
            // The reference truncates what goes, over everything.
            total =
                n_entries - static_cast<int64_t>(target.evicted * static_cast<double>(n_entries));
        }
        return count_best(layers, total, 1, target.most);
    }
};

}  // namespace

std::unique_ptr<BudgetAllocator> make_global(const PartInputs& /*in*/) {
    return std::make_unique<Global>();
}

}  // namespace palimpsest
