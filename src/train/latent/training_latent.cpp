// Trains the residue `latent`: what was evicted from the first part of a document is written to a
// state, and what follows reads from it what its attention misses (IndexMem, arXiv:2605.25475,
// section 3.2 and Eq. 8).
//
// As the design decides (A13): what goes is chosen by the rule that chooses when running, and how
// much goes is drawn. Ours: other rules choose as well (chooser.h), and how long the first part is
// is drawn too; with one rule and one length a memory fits only those. Each document is cut in a
// few ways, of which a block's place picks one.

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "core/error.h"
#include "core/random.h"
#include "train/activations.h"
#include "train/example_layer.h"
#include "train/latent/chooser.h"
#include "train/latent/latent_learner.h"
#include "train/latent/objective_memory.h"
#include "train/objective.h"

namespace palimpsest {

namespace {

constexpr std::array<double, 4> kEvictedShares = {0.25, 0.5, 0.75, 0.9};
constexpr std::array<int64_t, 3> kPromptParts = {2, 4, 8};  // the prompt is one of so many parts
constexpr int64_t kLeastPrompt = 4 * kTrainedSinks;
constexpr int64_t kReaders = 64;  // tokens that read, at most: enough, and cheap
constexpr int64_t kCuts = 3;      // ways to cut a document

/// A document, and which way to cut it.
using DocumentCut = std::pair<const Example*, int64_t>;

/// Of one layer, summed over cuts and documents.
struct GivenBack {
    double loss = 0, missing = 0;  // mean squares

    void add(double layer_loss, std::span<const float> layer_missing) {
        double squared = 0;
        for (const float x : layer_missing) {
            squared += static_cast<double>(x) * static_cast<double>(x);
        }
        loss += layer_loss;
        missing += squared / static_cast<double>(layer_missing.size());
    }
    [[nodiscard]] double share() const { return missing > 0 ? 1 - loss / missing : 0; }
};

class LatentTraining final : public Objective {
 public:
    explicit LatentTraining(const ObjectiveInputs& in)
        : backend_(in.backend),
          shape_(attention_shape(in.shape)),
          layers_(evicting_layers(in.shape)),
          n_feature_(in.options.n_feature),
          seed_(in.options.seed),
          form_(in.options.latent_form) {
        require(n_feature_ >= 1 && n_feature_ <= 4096, "a latent memory of ", n_feature_,
                " features; they must be 1 to 4096");
        choosers_ = make_choosers(in);
        learner_ =
            form_ == LatentForm::kSoftmax ? make_softmax_learner(in) : make_residual_learner(in);
    }

    [[nodiscard]] Captured wanted() const override {
        return {.hidden = true, .queries = true, .entries = true};
    }
    [[nodiscard]] Parameters& parameters() override { return learner_->parameters(); }
    void begin(std::span<const Example* const> examples) override { learner_->begin(examples); }

    double learn(std::span<const Block> blocks) override {
        std::map<DocumentCut, int64_t> counts;
        std::vector<DocumentCut> order;  // that of the first blocks: addresses have none that stays
        for (const Block& b : blocks) {
            const DocumentCut cut = {b.of, b.begin % kCuts};
            if (counts[cut]++ == 0) order.push_back(cut);
        }
        double loss = 0;
        for (const DocumentCut& cut : order) {
            const double share =
                static_cast<double>(counts[cut]) / static_cast<double>(blocks.size());
            for (const double x : losses_of(cut, share)) {
                loss += share * x / static_cast<double>(layers_.size());
            }
        }
        return loss;
    }

    std::vector<Measure> examine(std::span<const Example* const> held_out) override {
        std::vector<GivenBack> sums(layers_.size());
        for (const Example* e : held_out) {
            for (int64_t way = 0; way < kCuts; ++way) {
                const std::vector<double> losses = losses_of({e, way}, 0);
                const std::vector<MemoryTarget>& targets = targets_of({e, way});
                for (size_t i = 0; i < losses.size(); ++i) {
                    sums[i].add(losses[i], targets[i].missing);
                }
            }
        }
        // Of all layers together the last ones decide, whose values are long; the mean of the
        // layers' shares counts them alike.
        GivenBack all;
        double shares = 0;
        for (const GivenBack& of : sums) {
            all.loss += of.loss;
            all.missing += of.missing;
            shares += of.share();
        }
        const auto n_layers = static_cast<double>(layers_.size());
        const auto n_cuts = static_cast<double>(std::max<int64_t>(1, kCuts * std::ssize(held_out)));
        return {{"loss", all.loss / (n_layers * n_cuts)},
                {"given_back", all.share()},
                {"given_back_by_layer", shares / n_layers}};
    }

    /// What goes depends on the choosers' weights.
    [[nodiscard]] std::string settings() const override {
        std::string all = cat("features=", n_feature_,
                              " form=", form_ == LatentForm::kSoftmax ? "softmax" : "residual");
        for (const auto& chooser : choosers_) all += cat(" ", chooser->settings());
        return all;
    }

    void describe(GgufWriter& to) const override {
        to.set_count("evict.memory.feature_length", static_cast<uint32_t>(n_feature_));
        learner_->describe(to);
    }

 private:
    /// Layers go to threads whole, so that results do not depend on how many there are.
    template <typename Work>
    void in_layers(const Work& work) const {
        backend_.share_out(std::ssize(layers_),
                           [&](int64_t i, int /*thread*/) { work(static_cast<size_t>(i)); });
    }

    /// The key under which a cut is noted; what is drawn for it is drawn from it.
    [[nodiscard]] uint64_t key_of(const DocumentCut& cut) const {
        return seed_ ^ (example_key(*cut.first) + static_cast<uint64_t>(cut.second));
    }

    [[nodiscard]] static int64_t prompt_of(const DocumentCut& cut) {
        const int64_t n = cut.first->n;
        const int64_t part = n / kPromptParts.at(static_cast<size_t>(cut.second));
        return std::min(n / 2, std::max(part, kLeastPrompt));
    }

    /// Record of a layer, of the prompt and as much again that reads.
    template <typename Work>
    auto with_record(const DocumentCut& cut, size_t i, const Work& work) const {
        const int64_t n_prompt = prompt_of(cut);
        const ExampleLayer layer(*cut.first, layers_[i], shape_, n_prompt);
        return work(layer.record().first(2 * n_prompt, n_prompt));
    }

    const std::vector<MemoryTarget>& targets_of(const DocumentCut& cut) {
        const uint64_t key = key_of(cut);
        Random random(key);
        const double share =
            kEvictedShares.at(static_cast<size_t>(random.below(std::ssize(kEvictedShares))));
        const Chooser& chooser =
            *choosers_[static_cast<size_t>(random.below(std::ssize(choosers_)))];
        const int64_t n_prompt = prompt_of(cut);
        std::vector<HeadRows> gone;
        const auto choose_and_work = [&](const auto& work) {
            gone = chooser.choose(*cut.first, n_prompt, share);
            in_layers(work);
        };
        return targets_.of(key, layers_.size(), choose_and_work, [&](size_t i) {
            return with_record(cut, i, [&](const LayerRecord& record) {
                return memory_target(record, std::move(gone[i]),
                                     std::max<int64_t>(1, n_prompt / kReaders));
            });
        });
    }

    /// Of every layer; adds `share` of the gradients, unless it is 0.
    std::vector<double> losses_of(const DocumentCut& cut, double share) {
        const std::vector<MemoryTarget>& targets = targets_of(cut);
        std::vector<double> losses(layers_.size());
        const auto weight = static_cast<float>(share / static_cast<double>(layers_.size()));
        in_layers([&](size_t i) {
            losses[i] = with_record(cut, i, [&](const LayerRecord& record) {
                return learner_->loss(record, targets[i], i, weight);
            });
        });
        return losses;
    }

    const Backend& backend_;
    AttentionShape shape_;
    std::vector<int64_t> layers_;
    int64_t n_feature_;
    uint64_t seed_;
    LatentForm form_;
    std::vector<std::unique_ptr<Chooser>> choosers_;
    std::unique_ptr<LatentLearner> learner_;
    ExampleNotes<MemoryTarget> targets_;
};

}  // namespace

std::unique_ptr<Objective> make_latent_objective(const ObjectiveInputs& in) {
    return std::make_unique<LatentTraining>(in);
}

}  // namespace palimpsest
