// Keeps entries whose key and value are both large beside their neighbours.
//
// CurDKV (Sengupta et al., 2025, arXiv:2509.15038) with local leverage: squared norms, divided by
// their sum over blocks of neighbours, keys' times values'.

#include <algorithm>

#include "memory/attention/row_tiles.h"
#include "memory/policy/policies.h"

namespace palimpsest {

namespace {

class Cur final : public EvictionPolicy {
 public:
    explicit Cur(OptionReader& options)
        : n_sink_(options.integer("sinks", 4, 0, 1 << 20)),
          block_(options.integer("block", 16, 1, 1 << 20)) {}

    [[nodiscard]] Scores score(const LayerView& held, const Observers& /*noted*/) const override {
        Scores scores;
        for (const HeadView& head : held.heads) {
            std::vector<float> keys;
            std::vector<float>& of = scores.emplace_back();
            for_keys(head, [&](std::span<const float> k) { keys.push_back(squared_norm(k)); });
            for_values(head, [&](std::span<const float> v) { of.push_back(squared_norm(v)); });
            divide_by_blocks(keys);
            divide_by_blocks(of);
            double sum = 0;
            for (size_t i = 0; i < of.size(); ++i) {
                sum += static_cast<double>(of[i] *= keys[i]);
            }
            for (size_t i = 0; i < of.size(); ++i) {
                const bool is_sink = head.positions[i] < n_sink_;
                of[i] = is_sink ? 1.0F : static_cast<float>(static_cast<double>(of[i]) / sum);
            }
        }
        return scores;
    }

 private:
    void divide_by_blocks(std::vector<float>& values) const {
        for (size_t begin = 0; begin < values.size(); begin += static_cast<size_t>(block_)) {
            const size_t end = std::min(values.size(), begin + static_cast<size_t>(block_));
            float sum = 0;
            for (size_t i = begin; i < end; ++i) sum += values[i];
            for (size_t i = begin; i < end; ++i) values[i] /= sum;
        }
    }

    int64_t n_sink_, block_;
};

}  // namespace

MadePolicy make_cur(const PartInputs& in) { return std::make_unique<Cur>(in.options); }

}  // namespace palimpsest
