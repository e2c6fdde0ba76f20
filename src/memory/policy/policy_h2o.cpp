// Keeps what all queries so far have attended to.
//
// Heavy hitters (H2O: Zhang et al., 2023, arXiv:2306.14048). Attention is summed over every query
// while an entry lives, and by default divided by the number of queries that could see it, as
// kvpress' observed attention does: early entries have been seen more often. `normalise=0` gives
// the original's plain sum.

#include "memory/policy/observation.h"
#include "memory/policy/policies.h"

namespace palimpsest {

namespace {

class H2o final : public EvictionPolicy {
 public:
    H2o(const MemoryShape& shape, OptionReader& options)
        : mass_(shape), normalise_(options.integer("normalise", 1, 0, 1) == 1) {}

    void begin(const Step& step, int64_t seen) override { mass_.begin(step, seen); }
    void observe(Graph& g, const AttentionInputs& in, EntrySource& source,
                 AttentionScratch& scratch) override {
        mass_.observe(g, in, source, scratch);
    }
    [[nodiscard]] Scores score(const LayerView& held) const override {
        Scores scores;
        const auto group = static_cast<float>(held.shape->group());
        for (size_t h = 0; h < held.heads.size(); ++h) {
            const auto positions = held.heads[h].positions;
            const auto mass = mass_.of(held.layer, static_cast<int64_t>(h));
            std::vector<float>& of = scores.emplace_back();
            for (size_t i = 0; i < positions.size(); ++i) {
                const auto n_queries = static_cast<float>(held.n_seen - positions[i]);
                of.push_back(mass[i] / group / (normalise_ ? n_queries : 1.0F));
            }
        }
        return scores;
    }
    void keep(int64_t layer, int64_t head, std::span<const int32_t> kept) override {
        mass_.keep(layer, head, kept);
    }
    void held(int64_t layer, std::span<const std::span<const int32_t>> heads) override {
        for (size_t h = 0; h < heads.size(); ++h) {
            check_notes("h2o", std::ssize(mass_.of(layer, static_cast<int64_t>(h))),
                        std::ssize(heads[h]));
        }
    }
    void reset() override { mass_.reset(); }
    [[nodiscard]] size_t bytes() const override { return mass_.bytes(); }
    [[nodiscard]] size_t bytes_per_entry() const override { return sizeof(float); }
    void save(std::ostream& out) const override { mass_.save(out); }
    void load(std::istream& in) override { mass_.load(in); }

 private:
    ColumnMass mass_;
    bool normalise_;
};

}  // namespace

MadePolicy make_h2o(const PartInputs& in) { return std::make_unique<H2o>(in.shape, in.options); }

}  // namespace palimpsest
