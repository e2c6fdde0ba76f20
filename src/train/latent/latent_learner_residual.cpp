// The latent memory of IndexMem (arXiv:2605.25475, section 3.2), in its released form: one
// projection a layer, and a gate.

#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/random.h"
#include "train/example_layer.h"
#include "train/latent/latent_learner.h"

namespace palimpsest {

namespace {

constexpr float kFirstGate = 0.1F, kFirstDecay = 0.99F;
constexpr MemoryRule kRule = {.floor = 1e-6F, .clips = true};

float logit(float p) { return std::log(p / (1 - p)); }

/// Places of one layer's tensors among all parameters.
struct Places {
    size_t phi = 0, gate = 0, decay = 0;
};

class ResidualLearner final : public LatentLearner {
 public:
    explicit ResidualLearner(const ObjectiveInputs& in)
        : shape_(attention_shape(in.shape)), n_feature_(in.options.n_feature) {
        Random random(in.options.seed);
        for (const int64_t i : evicting_layers(in.shape)) add_layer(i, random);
    }

    double loss(const LayerRecord& record, const MemoryTarget& target, size_t i,
                float weight) override {
        const auto to =
            weight != 0 ? parts<float>(places_[i], &Parameter::gradient) : MemoryParts<float>{};
        return memory_loss(record, target, parts<const float>(places_[i], &Parameter::value), kRule,
                           weight, to);
    }

    void describe(GgufWriter& to) const override {
        to.set_text("evict.memory.form", "residual");
        to.set_number("evict.memory.epsilon", kRule.floor);
        to.set_number("evict.memory.eta", 1.0F);
        to.set_text("evict.memory.gate", "scalar");
        to.set_boolean("evict.memory.clip", kRule.clips);
    }

 private:
    void add_layer(int64_t layer, Random& random) {
        const auto add = [&](std::string_view name, int64_t n_in, int64_t n_out) {
            return add_parameter(parameters(), cat("blk.", layer, ".memory_", name),
                                 {n_in, n_out, 1, 1}, GGML_TYPE_F32);
        };
        const Places at = {.phi = add("phi.weight", shape_.d_head, n_feature_),
                           .gate = add("gate.logit", 1, 1),
                           // Learns nothing: all is written at once.
                           .decay = add("decay.logit", 1, 1)};
        const double most = 1.0 / std::sqrt(static_cast<double>(shape_.d_head));
        for (float& x : parameters()[at.phi].value) {
            x = static_cast<float>(most * (2 * random.unit() - 1));
        }
        parameters()[at.gate].value[0] = logit(kFirstGate);
        parameters()[at.decay].value[0] = logit(kFirstDecay);
        places_.push_back(at);
    }

    template <typename T>
    [[nodiscard]] MemoryParts<T> parts(const Places& at, std::vector<float> Parameter::*which) {
        return {.phi = std::span<T>(parameters()[at.phi].*which),
                .gate = std::span<T>(parameters()[at.gate].*which)};
    }

    AttentionShape shape_;
    int64_t n_feature_;
    std::vector<Places> places_;
};

}  // namespace

std::unique_ptr<LatentLearner> make_residual_learner(const ObjectiveInputs& in) {
    return std::make_unique<ResidualLearner>(in);
}

}  // namespace palimpsest
