// Keeps the entries whose keys are shortest.
//
// A low L2 norm of a key goes with high attention later on (Devoto et al., 2024, arXiv:2406.11430).

#include <cmath>

#include "memory/attention/row_tiles.h"
#include "memory/policy/policies.h"

namespace palimpsest {

namespace {

class KeyNorm final : public EvictionPolicy {
 public:
    [[nodiscard]] Scores score(const LayerView& held, const Observers& /*noted*/) const override {
        Scores scores;
        for (const HeadView& head : held.heads) {
            std::vector<float>& of = scores.emplace_back();
            for_keys(head, [&](std::span<const float> key) { of.push_back(-norm(key)); });
        }
        return scores;
    }
};

}  // namespace

MadePolicy make_key_norm(const PartInputs& /*in*/) { return std::make_unique<KeyNorm>(); }

}  // namespace palimpsest
