// Keeps the entries whose keys point away from the mean key.
//
// Score: minus the cosine to the mean of the normalised keys (KeyDiff: Park et al., 2025,
// arXiv:2504.15364). Used while a prompt is read chunk by chunk, it is the original's block-wise
// form.

#include "memory/attention/row_tiles.h"
#include "memory/policy/policies.h"

namespace palimpsest {

namespace {

constexpr float kLeastNorm = 1e-12F;

class KeyDiff final : public EvictionPolicy {
 public:
    [[nodiscard]] Scores score(const LayerView& held, const Observers& /*noted*/) const override {
        Scores scores;
        for (const HeadView& head : held.heads) scores.push_back(score_head(head));
        return scores;
    }

 private:
    static std::vector<float> score_head(const HeadView& head) {
        std::vector<float> anchor(static_cast<size_t>(head.rows.d));
        std::vector<float> norms;
        for_keys(head, [&](std::span<const float> key) {
            norms.push_back(std::max(norm(key), kLeastNorm));
            const float factor = 1.0F / norms.back();
            for (size_t c = 0; c < key.size(); ++c) anchor[c] += key[c] * factor;
        });
        const float length = std::max(norm(anchor), kLeastNorm);
        for (float& x : anchor) x /= length;
        std::vector<float> scores;
        for_keys(head, [&](std::span<const float> key) {
            scores.push_back(-dot(key, anchor) / norms[scores.size()]);
        });
        return scores;
    }
};

}  // namespace

MadePolicy make_key_diff(const PartInputs& /*in*/) { return std::make_unique<KeyDiff>(); }

}  // namespace palimpsest
