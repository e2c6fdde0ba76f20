// Trains the residue `latent` (IndexMem, arXiv:2605.25475, section 3.2, in its released form): what
// was evicted from the first half of a document is written to a state, and the second half reads
// from it what its attention misses.
//
// As the design decides (A13): what goes is chosen by the rule that chooses when running, and how
// much goes is drawn for each document. The indexer of the sidecar chooses; without one, attention
// itself does, which is what an indexer is trained to foretell.

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "bench/random.h"
#include "core/digest.h"
#include "core/error.h"
#include "train/activations.h"
#include "train/example_layer.h"
#include "train/objective.h"
#include "train/objective_indexer.h"
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

/// A sidecar's indexer of one layer.
struct Chooser {
    std::vector<float> q, k, head, q_norm, k_norm;
    [[nodiscard]] IndexerParts<const float> parts() const { return {q, k, head, q_norm, k_norm}; }
};

Chooser chooser_of(const IndexerLayer& from) {
    require(from.k_bias == nullptr && from.head_bias == nullptr && from.q_norm.bias == nullptr &&
                from.k_norm.bias == nullptr,
            "the sidecar's indexer has biases, which are not trained here");
    return {.q = Graph::read(from.q),
            .k = Graph::read(from.k),
            .head = Graph::read(from.head),
            .q_norm = Graph::read(from.q_norm.weight),
            .k_norm = Graph::read(from.k_norm.weight)};
}

class LatentTraining final : public Objective {
 public:
    explicit LatentTraining(const ObjectiveInputs& in)
        : backend_(in.backend),
          shape_(attention_shape(in.shape)),
          n_feature_(in.shape.d_head),
          seed_(in.options.seed) {
        Random random(in.options.seed);
        const IndexerWeights* indexer = in.sidecar == nullptr ? nullptr : in.sidecar->indexer();
        if (indexer != nullptr) {
            require(indexer->norm == NormKind::kRms && indexer->activation == Activation::kRelu &&
                        indexer->is_causal,
                    "the sidecar's indexer is of a kind that is not trained here");
            size_ = {
                .n_head = indexer->n_head, .d_head = indexer->d_head, .epsilon = indexer->epsilon};
        }
        for (const int64_t i : evicting_layers(in.shape)) {
            add_layer(i, random);
            if (indexer != nullptr) {
                choosers_.push_back(chooser_of(indexer->layers[static_cast<size_t>(i)]));
            }
        }
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
        double given_back = 0;
        for (const Example* e : held_out) {
            const std::vector<double> losses = losses_of(*e, 0);
            const std::vector<MemoryTarget>& targets = targets_of(*e);
            for (size_t i = 0; i < losses.size(); ++i) {
                double squared = 0;
                for (const float x : targets[i].missing) {
                    squared += static_cast<double>(x) * static_cast<double>(x);
                }
                const double all = squared / static_cast<double>(targets[i].missing.size());
                loss += losses[i];
                given_back += all > 0 ? 1 - losses[i] / all : 0;
            }
        }
        const auto n = static_cast<double>(std::max<size_t>(held_out.size(), 1) * layers_.size());
        return {{"loss", loss / n}, {"given_back", given_back / n}};
    }

    /// What goes is the indexer's choice, so its weights count.
    [[nodiscard]] std::string settings() const override {
        Digest digest;
        for (const Chooser& c : choosers_) {
            for (const auto* part : {&c.q, &c.k, &c.head, &c.q_norm, &c.k_norm}) {
                digest.add(std::as_bytes(std::span(*part)));
            }
        }
        return choosers_.empty() ? "chooser=attention" : cat("chooser=", digest.hex());
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

    /// How important each row of the prompt is to the prompt itself.
    [[nodiscard]] std::vector<float> importance(const LayerRecord& record, size_t i) const {
        if (choosers_.empty()) {
            LayerRecord prompt = record;
            prompt.n = record.n_prompt;
            const auto first = [&](std::span<const float> of) {
                return of.first(of.size() / static_cast<size_t>(record.n) *
                                static_cast<size_t>(prompt.n));
            };
            prompt.hidden = first(record.hidden);
            prompt.q_raw = first(record.q_raw);
            prompt.q = first(record.q);
            prompt.k = first(record.k);
            prompt.v = first(record.v);
            return indexer_target(prompt, IndexerForm::kAllPairs, 0).share;
        }
        const auto weights = choosers_[i].parts();
        return IndexerNet(size_, weights, record)
            .importance({.first_query = 0,
                         .end_query = record.n_prompt,
                         .first_key = 0,
                         .end_key = record.n_prompt})
            .largest;
    }

    const std::vector<MemoryTarget>& targets_of(const Example& e) {
        Random random(seed_ ^ example_key(e));
        const double share =
            kEvictedShares.at(static_cast<size_t>(random.below(std::ssize(kEvictedShares))));
        return targets_.of(
            e, layers_.size(), [&](const auto& work) { in_layers(work); },
            [&](size_t i) {
                const ExampleLayer layer(e, layers_[i].layer, shape_, e.n / 2);
                return memory_target(
                    layer.record(),
                    rows_to_evict(importance(layer.record(), i), share, kTrainedSinks), kAskEvery);
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
    IndexerShape size_;
    std::vector<Chooser> choosers_;  // as layers_; empty: the sidecar has no indexer
    Parameters parameters_;
    std::vector<LayerPlaces> layers_;
    ExampleNotes<MemoryTarget> targets_;
};

}  // namespace

std::unique_ptr<Objective> make_latent_objective(const ObjectiveInputs& in) {
    return std::make_unique<LatentTraining>(in);
}

}  // namespace palimpsest
