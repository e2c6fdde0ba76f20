// The first half of a head's budget goes to its best scores; the second to the entries whose
// values, seen through the output weights, weigh most (CriticalKV: Feng et al., 2025,
// arXiv:2502.03805).

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "core/error.h"
#include "memory/eviction/allocation.h"
#include "memory/kernels/scoring_kernel.h"

namespace palimpsest {

namespace {

constexpr int64_t kTile = 64;

class Critical final : public BudgetAllocator {
 public:
    Critical(const PartInputs& in, std::unique_ptr<BudgetAllocator> counts)
        : counts_(std::move(counts)),
          weights_(in.output_weights),
          epsilon_(static_cast<float>(in.options.number("critical-epsilon", 1e-4, 0, 1e6))),
          first_share_(in.options.number("first-stage", 0.5, 0, 1)) {
        if (!weights_) {
            throw Error(ErrorCode::kUnsupported,
                        "allocator 'critical' needs the model's output weights");
        }
    }

    [[nodiscard]] std::vector<std::vector<int64_t>> allocate(
        std::span<const LayerCandidates> layers, const CutTarget& target) const override {
        return counts_->allocate(layers, target);
    }

    void rescore(LayerCandidates& layer, std::span<const int64_t> counts,
                 const CutTarget& target) const override {
        const std::vector<float> output = weights_(layer.view.layer);
        for (size_t h = 0; h < layer.scores.size(); ++h) {
            // Uniform counts were rounded down from `exact`; the first stage is not rounded twice.
            const double budget =
                counts[h] == target.entries ? target.exact : static_cast<double>(counts[h]);
            const auto n_first = std::max<int64_t>(1, static_cast<int64_t>(budget * first_share_));
            rescore_head(layer, h, n_first, output);
        }
    }

 private:
    void rescore_head(LayerCandidates& layer, size_t h, int64_t n_first,
                      const std::vector<float>& output) const {
        std::vector<float>& scores = layer.scores[h];
        const HeadView& head = layer.view.heads[h];
        const std::vector<uint8_t> none(scores.size());
        const std::vector<int32_t> safe = select_entries(
            {.scores = scores, .positions = head.positions, .is_protected = none}, n_first);
        const std::vector<float> norms = output_norms(layer.view, static_cast<int64_t>(h), output);
        for (size_t i = 0; i < scores.size(); ++i) scores[i] = (scores[i] + epsilon_) * norms[i];
        for (const int32_t i : safe) {
            scores[static_cast<size_t>(i)] = std::numeric_limits<float>::max();
        }
    }

    /// Mean over the group's query heads of the L1 norm of (output weights of the head) * value.
    static std::vector<float> output_norms(const LayerView& view, int64_t h,
                                           const std::vector<float>& output) {
        const HeadView& head = view.heads[static_cast<size_t>(h)];
        const int64_t d = head.rows.d;
        const int64_t width = view.shape->n_head * d;
        const int64_t n_embd = std::ssize(output) / width;
        const int64_t group = view.shape->group();
        EntryRows values = head.rows;
        values.k = values.v;
        std::vector<float> rows(static_cast<size_t>(n_embd * d));
        std::vector<float> products(static_cast<size_t>(kTile * n_embd));
        std::vector<float> norms(head.positions.size());
        for (int64_t q = h * group; q < (h + 1) * group; ++q) {
            for (int64_t e = 0; e < n_embd; ++e) {
                std::copy_n(output.data() + e * width + q * d, d, rows.data() + e * d);
            }
            for (int64_t first = 0; first < std::ssize(norms); first += kTile) {
                const int64_t n = std::min(kTile, std::ssize(norms) - first);
                multiply_keys(values, {first, first + n}, rows, products.data(), view.scratch);
                for (int64_t t = 0; t < n; ++t) {
                    float sum = 0;
                    const float* of = products.data() + t * n_embd;
                    for (int64_t e = 0; e < n_embd; ++e) sum += std::abs(of[e]);
                    norms[static_cast<size_t>(first + t)] += sum / static_cast<float>(group);
                }
            }
        }
        return norms;
    }

    std::unique_ptr<BudgetAllocator> counts_;
    OutputWeights weights_;
    float epsilon_;
    double first_share_;
};

}  // namespace

std::unique_ptr<BudgetAllocator> make_critical(const PartInputs& in) {
    return std::make_unique<Critical>(in, make_uniform(in));
}

std::unique_ptr<BudgetAllocator> make_critical_adaptive(const PartInputs& in) {
    return std::make_unique<Critical>(in, make_adaptive(in));
}

}  // namespace palimpsest
