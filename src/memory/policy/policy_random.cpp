// Keeps entries by lot: what any policy must beat.
//
// An entry draws its number once, from its place and the seed, so that the choice does not depend
// on when or how often it is made.

#include "memory/policy/policies.h"

namespace palimpsest {

namespace {

/// SplitMix64's mixing step (Steele, Lea and Flood, 2014).
uint64_t mixed(uint64_t x) {
    x += 0x9E3779B97F4A7C15U;
    x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9U;
    x = (x ^ (x >> 27U)) * 0x94D049BB133111EBU;
    return x ^ (x >> 31U);
}

class Random final : public EvictionPolicy {
 public:
    explicit Random(OptionReader& options)
        : seed_(static_cast<uint64_t>(options.integer("seed", 0, 0, INT64_MAX))) {}

    [[nodiscard]] Scores score(const LayerView& held, const Observers& /*noted*/) const override {
        Scores scores;
        for (size_t h = 0; h < held.heads.size(); ++h) {
            const uint64_t place = mixed(mixed(seed_ ^ static_cast<uint64_t>(held.layer)) ^ h);
            std::vector<float>& of = scores.emplace_back();
            for (const int32_t p : held.heads[h].positions) {
                of.push_back(static_cast<float>(mixed(place ^ static_cast<uint64_t>(p)) >> 40U));
            }
        }
        return scores;
    }

 private:
    uint64_t seed_;
};

}  // namespace

MadePolicy make_random(const PartInputs& in) { return std::make_unique<Random>(in.options); }

}  // namespace palimpsest
