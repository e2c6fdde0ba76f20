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
    explicit Tova(const MemoryShape& shape) : queries_(shape, 1) {}

    [[nodiscard]] int64_t n_recent() const override { return 1; }
    void begin(const Step& step, int64_t seen) override { queries_.begin(step, seen); }
    void observe(Graph& g, const AttentionInputs& in, EntrySource& /*source*/,
                 AttentionScratch& /*scratch*/) override {
        queries_.observe(g, in);
    }

    /// Heads may hold different entries (other allocators), so a position's mean is taken over the
    /// heads that hold it.
    [[nodiscard]] Scores score(const LayerView& held) const override {
        Scores scores;
        for (size_t h = 0; h < held.heads.size(); ++h) {
            scores.push_back(queries_.attention(held, static_cast<int64_t>(h), Reduce::kSum));
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
    void shift(int64_t positions) override { queries_.shift(positions); }
    void reset() override { queries_.reset(); }
    [[nodiscard]] size_t bytes() const override { return queries_.bytes(); }
    void save(std::ostream& out) const override { queries_.save(out); }
    void load(std::istream& in) override { queries_.load(in); }

 private:
    QueryWindow queries_;
};

}  // namespace

MadePolicy make_tova(const PartInputs& in) { return std::make_unique<Tova>(in.shape); }

}  // namespace palimpsest
