// Trains the residue `latent` (IndexMem, arXiv:2605.25475, section 3.2, in its released form): what
// was evicted from the first half of a document is written to a state, and the second half reads
// from it what its attention misses.
//
// As the design decides (A13): what goes is chosen by the rule that chooses when running, and how
// much goes is drawn for each document (chooser.h).

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "bench/random.h"
#include "core/error.h"
#include "train/activations.h"
#include "train/chooser.h"
#include "train/example_layer.h"
#include "train/objective.h"
#include "train/objective_memory.h"

namespace palimpsest {

namespace {

constexpr std::array<double, 4> kEvictedShares = {0.25, 0.5, 0.75, 0.9};
constexpr int64_t kAskEvery = 4;  // every fourth token of the second half reads: enough, and cheap
constexpr float kFirstGate = 0.1F, kFirstDecay = 0.99F;

float logit(float p) { return std::log(p / (1 - p)); }

/// Places of one layer's tensors among all parameters.
struct LayerPlaces {
    int64_t layer = 0;
    size_t phi = 0, gate = 0, decay = 0;
};

class LatentTraining final : public Objective {
 public:
    explicit LatentTraining(const ObjectiveInputs& in)
        : backend_(in.backend),
          shape_(attention_shape(in.shape)),
          n_feature_(in.options.n_feature),
          seed_(in.options.seed),
          chooser_(make_chooser(in)) {
        require(n_feature_ >= 1 && n_feature_ <= 4096, "a latent memory of ", n_feature_,
                " features; they must be 1 to 4096");
        Random random(in.options.seed);
        for (const int64_t i : evicting_layers(in.shape)) add_layer(i, random);
    }

    [[nodiscard]] Captured wanted() const override {
        return {.hidden = true, .queries = true, .entries = true};
    }
    [[nodiscard]] Parameters& parameters() override { return parameters_; }

    double learn(std::span<const Block> blocks) override {
        double loss = 0;
        for (const auto& [document, count] : documents_of(blocks)) {
            const double share = static_cast<double>(count) / static_cast<double>(blocks.size());
            for (const double x : losses_of(*document, share)) {
                loss += share * x / static_cast<double>(layers_.size());
            }
        }
        return loss;
    }

    std::vector<Measure> examine(std::span<const Example* const> held_out) override {
        double loss = 0;
        double missing = 0;
        for (const Example* e : held_out) {
            const std::vector<double> losses = losses_of(*e, 0);
            const std::vector<MemoryTarget>& targets = targets_of(*e);
            for (size_t i = 0; i < losses.size(); ++i) {
                double squared = 0;
                for (const float x : targets[i].missing) {
                    squared += static_cast<double>(x) * static_cast<double>(x);
                }
                loss += losses[i];
                missing += squared / static_cast<double>(targets[i].missing.size());
            }
        }
        const auto n = static_cast<double>(std::max<size_t>(held_out.size(), 1) * layers_.size());
        // Of all layers together: a gate takes next to nothing from some, of which no share means
        // anything.
        return {{"loss", loss / n}, {"given_back", missing > 0 ? 1 - loss / missing : 0}};
    }

    /// What goes depends on the chooser's weights.
    [[nodiscard]] std::string settings() const override {
        return cat(chooser_->settings(), " features=", n_feature_);
    }

    void describe(GgufWriter& to) const override {
        to.set_count("evict.memory.feature_length", static_cast<uint32_t>(n_feature_));
        to.set_number("evict.memory.epsilon", kRule.floor);
        to.set_number("evict.memory.eta", 1.0F);
        to.set_text("evict.memory.gate", "scalar");
        to.set_boolean("evict.memory.clip", kRule.clips);
    }

 private:
    static constexpr MemoryRule kRule = {.floor = 1e-6F, .clips = true};

    void add_layer(int64_t layer, Random& random) {
        const auto add = [&](std::string_view name, int64_t n_in, int64_t n_out) {
            return add_parameter(parameters_, cat("blk.", layer, ".memory_", name),
                                 {n_in, n_out, 1, 1}, GGML_TYPE_F32);
        };
        LayerPlaces at = {.layer = layer};
        at.phi = add("phi.weight", shape_.d_head, n_feature_);
        at.gate = add("gate.logit", 1, 1);
        at.decay = add("decay.logit", 1, 1);  // learns nothing: all is written at once
        const double most = 1.0 / std::sqrt(static_cast<double>(shape_.d_head));
        for (float& x : parameters_[at.phi].value) {
            x = static_cast<float>(most * (2 * random.unit() - 1));
        }
        parameters_[at.gate].value[0] = logit(kFirstGate);
        parameters_[at.decay].value[0] = logit(kFirstDecay);
        layers_.push_back(at);
    }

    template <typename T>
    [[nodiscard]] MemoryParts<T> parts(const LayerPlaces& at,
                                       std::vector<float> Parameter::*which) {
        return {.phi = std::span<T>(parameters_[at.phi].*which),
                .gate = std::span<T>(parameters_[at.gate].*which)};
    }

    /// Layers go to threads whole, so that results do not depend on how many there are.
    template <typename Work>
    void in_layers(const Work& work) const {
        backend_.share_out(std::ssize(layers_),
                           [&](int64_t i, int /*thread*/) { work(static_cast<size_t>(i)); });
    }

    const std::vector<MemoryTarget>& targets_of(const Example& e) {
        Random random(seed_ ^ example_key(e));
        const double share =
            kEvictedShares.at(static_cast<size_t>(random.below(std::ssize(kEvictedShares))));
        std::vector<HeadRows> gone;
        const auto choose_and_work = [&](const auto& work) {
            gone = chooser_->choose(e, share);
            in_layers(work);
        };
        return targets_.of(e, layers_.size(), choose_and_work, [&](size_t i) {
            const ExampleLayer layer(e, layers_[i].layer, shape_, e.n / 2);
            return memory_target(layer.record(), std::move(gone[i]), kAskEvery);
        });
    }

    /// Of every layer; adds `share` of the gradients, unless it is 0.
    std::vector<double> losses_of(const Example& e, double share) {
        const std::vector<MemoryTarget>& targets = targets_of(e);
        std::vector<double> losses(layers_.size());
        const auto weight = static_cast<float>(share / static_cast<double>(layers_.size()));
        in_layers([&](size_t i) {
            const ExampleLayer layer(e, layers_[i].layer, shape_, e.n / 2);
            const auto to =
                share > 0 ? parts<float>(layers_[i], &Parameter::gradient) : MemoryParts<float>{};
            losses[i] =
                memory_loss(layer.record(), targets[i],
                            parts<const float>(layers_[i], &Parameter::value), kRule, weight, to);
        });
        return losses;
    }

    const Backend& backend_;
    AttentionShape shape_;
    int64_t n_feature_;
    uint64_t seed_;
    std::unique_ptr<Chooser> chooser_;
    Parameters parameters_;
    std::vector<LayerPlaces> layers_;
    ExampleNotes<MemoryTarget> targets_;
};

}  // namespace

std::unique_ptr<Objective> make_latent_objective(const ObjectiveInputs& in) {
    return std::make_unique<LatentTraining>(in);
}

}  // namespace palimpsest
