// Keeps what the last query attends to, averaged over all heads of a layer.
//
// TOVA (Oren et al., 2024, arXiv:2401.06104). The original drops one entry at every token written;
// here the cut comes every so many tokens.

#include "memory/policy/observation.h"
#include "memory/policy/policies.h"

namespace palimpsest {

namespace {

class Tova final : public EvictionPolicy {
 public:
    explicit Tova(const PartInputs& in) : queries_(in.observers.add<QueryWindow>(in.shape, 1)) {}

    [[nodiscard]] int64_t n_recent() const override { return 1; }

    /// Heads may hold different entries (other allocators), so a position's mean is taken over the
    /// heads that hold it.
    [[nodiscard]] Scores score(const LayerView& held, const Observers& noted) const override {
        Scores scores;
        for (size_t h = 0; h < held.heads.size(); ++h) {
            scores.push_back(
                noted[queries_].attention(held, static_cast<int64_t>(h), Reduce::kSum));
        }
        std::vector<float> sum(static_cast<size_t>(held.n_seen));
        for (size_t h = 0; h < scores.size(); ++h) {
            const auto positions = held.heads[h].positions;
            for (size_t i = 0; i < positions.size(); ++i) {
                sum[static_cast<size_t>(positions[i])] += scores[h][i];
            }
        }
        const auto n_head = static_cast<float>(held.shape->n_head);
        for (size_t h = 0; h < scores.size(); ++h) {
            const auto positions = held.heads[h].positions;
            for (size_t i = 0; i < positions.size(); ++i) {
                const bool is_last = positions[i] == held.n_seen - 1;
                // No mean weight is above 1.
                scores[h][i] = is_last ? 2.0F : sum[static_cast<size_t>(positions[i])] / n_head;
            }
        }
        return scores;
    }

 private:
    Noted<QueryWindow> queries_;
};

}  // namespace

MadePolicy make_tova(const PartInputs& in) { return std::make_unique<Tova>(in); }

}  // namespace palimpsest
