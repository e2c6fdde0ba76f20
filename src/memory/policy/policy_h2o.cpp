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
    explicit H2o(const PartInputs& in)
        : mass_(in.observers.add<ColumnMass>(in.shape, "h2o")),
          normalise_(in.options.integer("normalise", 1, 0, 1) == 1) {}

    [[nodiscard]] Scores score(const LayerView& held, const Observers& noted) const override {
        Scores scores;
        const auto group = static_cast<float>(held.shape->group());
        for (size_t h = 0; h < held.heads.size(); ++h) {
            const auto positions = held.heads[h].positions;
            const auto mass = noted[mass_].of(held.layer, static_cast<int64_t>(h));
            std::vector<float>& of = scores.emplace_back();
            for (size_t i = 0; i < positions.size(); ++i) {
                const auto n_queries = static_cast<float>(held.n_seen - positions[i]);
                of.push_back(mass[i] / group / (normalise_ ? n_queries : 1.0F));
            }
        }
        return scores;
    }

 private:
    Noted<ColumnMass> mass_;
    bool normalise_;
};

}  // namespace

MadePolicy make_h2o(const PartInputs& in) { return std::make_unique<H2o>(in); }

}  // namespace palimpsest
