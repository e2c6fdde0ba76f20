// Keeps the first entries and the last ones, and nothing between.
//
// Attention sinks with a sliding window (Xiao et al., 2023, arXiv:2309.17453). The original also
// renumbers positions: --positions compact.

#include "memory/policy/policies.h"

namespace palimpsest {

namespace {

class Window final : public EvictionPolicy {
 public:
    explicit Window(OptionReader& options) : n_sink_(options.integer("sinks", 4, 0, 1 << 20)) {}

    /// The later, the higher; the sinks highest.
    [[nodiscard]] Scores score(const LayerView& held, const Observers& /*noted*/) const override {
        Scores scores;
        for (const HeadView& head : held.heads) {
            std::vector<float>& of = scores.emplace_back();
            for (const int32_t p : head.positions) {
                of.push_back(static_cast<float>(p < n_sink_ ? held.n_seen : p));
            }
        }
        return scores;
    }

 private:
    int64_t n_sink_;
};

}  // namespace

MadePolicy make_window(const PartInputs& in) { return std::make_unique<Window>(in.options); }

}  // namespace palimpsest
