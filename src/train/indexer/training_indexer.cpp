// Trains the policy `indexer` (IndexMem, arXiv:2605.25475) to foretell which tokens of a document
// attention will look at when the document is answered.
//
// The released code has labelled answers. Here a repetition of the document stands for the answer:
// it needs all that any answer could, where a text's own second half (Response::kContinuation)
// looks at little of the first but its frequent words. And with a repetition it is the document's
// own queries that ask the indexer, as when it runs: a cut comes before the answer. All causal
// pairs, the paper's form, would mostly teach what a token's neighbours look at.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "core/error.h"
#include "core/random.h"
#include "train/activations.h"
#include "train/example_layer.h"
#include "train/gate/objective_gate.h"
#include "train/indexer/objective_indexer.h"
#include "train/objective.h"

namespace palimpsest {

namespace {

/// Places of one layer's tensors among all parameters.
struct LayerPlaces {
    int64_t layer = 0;
    size_t q = 0, k = 0, head = 0, q_norm = 0, k_norm = 0;
    std::optional<size_t> bias = {};
};

/// As the paper has them where nothing is asked for: H/4 heads of width d/8, but at least as many
/// heads as there are groups, and as many in each.
IndexerShape size_of(const MemoryShape& model, const IndexerTrainingOptions& options) {
    IndexerShape size = {.n_head = options.n_head,
                         .d_head = options.d_head > 0
                                       ? options.d_head
                                       : std::max(kLeastIndexWidth, model.d_head / 8),
                         .activation = options.activation,
                         .n_group = options.is_by_head ? model.n_head_kv : 1};
    if (size.n_head == 0) {
        const int64_t in_group = std::max<int64_t>(1, model.n_head / 4 / size.n_group);
        size.n_head = in_group * size.n_group;
    }
    require(size.n_head % size.n_group == 0, "an indexer of ", size.n_head,
            " heads has no equal part for each of ", size.n_group,
            " KV heads; take a multiple of these");
    require(size.d_head >= kLeastIndexWidth && size.d_head <= kMostIndexWidth,
            "an indexer's heads of ", size.d_head, " channels; they must have ", kLeastIndexWidth,
            " to ", kMostIndexWidth);
    return size;
}

class IndexerTraining final : public Objective {
 public:
    explicit IndexerTraining(const ObjectiveInputs& in)
        : backend_(in.backend),
          shape_(attention_shape(in.shape)),
          options_(in.options.indexer),
          size_(size_of(in.shape, options_)),
          lesson_(
              {.n_sink = kTrainedSinks, .n_recent = options_.n_recent, .n_group = size_.n_group}) {
        require(
            options_.loss != IndexerLoss::kLogs || options_.response == Response::kRepetition,
            "an indexer learns logarithms from a repetition only: take --response repetition, or "
            "--loss divergence");
        Random random(in.options.seed);
        for (const int64_t i : evicting_layers(in.shape)) add_layer(i, random);
    }

    [[nodiscard]] Captured wanted() const override {
        return {.hidden = true,
                .queries = true,
                .entries = true,
                .scores = options_.response == Response::kRepetition};
    }
    [[nodiscard]] Parameters& parameters() override { return parameters_; }

    /// Biases begin at the mean target, which Adam would take thousands of steps to reach.
    void begin(std::span<const Example* const> examples) override {
        if (options_.loss != IndexerLoss::kLogs) return;
        std::vector<std::vector<double>> sums(layers_.size(),
                                              std::vector<double>(index(size_.n_group)));
        double n = 0;
        for (const Example* e : examples) {
            const std::vector<IndexerTarget>& targets = targets_of(*e);
            for (size_t i = 0; i < targets.size(); ++i) {
                const std::vector<float>& logs = targets[i].logs;
                const size_t n_key = logs.size() / sums[i].size();
                for (size_t j = 0; j < logs.size(); ++j) {
                    sums[i][j / n_key] += static_cast<double>(logs[j]);
                }
            }
            n += static_cast<double>(targets.front().at.n_keys());
        }
        for (size_t i = 0; i < layers_.size() && n > 0; ++i) {
            std::vector<float>& bias = parameters_[*layers_[i].bias].value;
            for (size_t g = 0; g < bias.size(); ++g) bias[g] = static_cast<float>(sums[i][g] / n);
        }
    }

    double learn(std::span<const Block> blocks) override {
        double loss = 0;
        for (const auto& [document, count] : documents_of(blocks)) {
            const double share = static_cast<double>(count) / static_cast<double>(blocks.size());
            loss += share * learn_document(*document, share);
        }
        return loss;
    }

    std::vector<Measure> examine(std::span<const Example* const> held_out) override {
        std::vector<Measure> sums = {{"loss", 0}};
        for (const double share : kCutShares) {
            sums.push_back({cat("recall_", std::lround(100 * share)), 0});
        }
        for (const Example* e : held_out) {
            const std::vector<IndexerTarget>& targets = targets_of(*e);
            std::vector<std::vector<double>> found(layers_.size());
            in_layers([&](size_t i) { found[i] = examine_layer(*e, i, targets[i]); });
            for (const std::vector<double>& of : found) {
                for (size_t j = 0; j < of.size(); ++j) sums[j].value += of[j];
            }
        }
        const auto n = static_cast<double>(std::max<size_t>(held_out.size(), 1) * layers_.size());
        for (Measure& m : sums) m.value /= n;
        return sums;
    }

    [[nodiscard]] std::string settings() const override {
        const IndexerTrainingOptions standard;
        std::string text = options_.response == Response::kRepetition ? "response=repetition, roots"
                                                                      : "response=continuation";
        if (options_.loss == IndexerLoss::kCuts) text += ", cuts";
        if (options_.loss == IndexerLoss::kLogs) text += ", logs";
        if (options_.activation != standard.activation) {
            text += cat(", ", activation_name(options_.activation));
        }
        if (options_.is_by_head) text += ", by head";
        if (options_.n_recent > 0) text += cat(", recent=", options_.n_recent);
        return text;
    }

    void describe(GgufWriter& to) const override {
        to.set_count("evict.indexer.head_count", static_cast<uint32_t>(size_.n_head));
        to.set_count("evict.indexer.key_length", static_cast<uint32_t>(size_.d_head));
        to.set_text("evict.indexer.norm", "rms");
        to.set_number("evict.indexer.norm_epsilon", size_.epsilon);
        to.set_text("evict.indexer.activation", std::string(activation_name(size_.activation)));
        to.set_boolean("evict.indexer.causal", true);
        if (size_.n_group > 1) {
            to.set_count("evict.indexer.group_count", static_cast<uint32_t>(size_.n_group));
        }
        if (options_.loss == IndexerLoss::kLogs) {
            to.set_text("evict.indexer.allocator", "global");  // its numbers compare
        }
        if (lesson_.n_recent > 0) {
            to.set_count("evict.indexer.recent_count", static_cast<uint32_t>(lesson_.n_recent));
        }
    }

 private:
    static size_t index(int64_t i) { return static_cast<size_t>(i); }

    void add_layer(int64_t layer, Random& random) {
        const auto add = [&](std::string_view name, int64_t n_in, int64_t n_out, ggml_type stored) {
            return add_parameter(parameters_, cat("blk.", layer, ".indexer_", name, ".weight"),
                                 {n_in, n_out, 1, 1}, stored);
        };
        const auto fill = [&](size_t at, int64_t n_in) {  // as PyTorch begins a linear layer
            const double most = 1.0 / std::sqrt(static_cast<double>(n_in));
            for (float& x : parameters_[at].value) {
                x = static_cast<float>(most * (2 * random.unit() - 1));
            }
        };
        LayerPlaces at = {.layer = layer};
        at.q = add("q", shape_.n_query_channels(), size_.width(), GGML_TYPE_F16);
        at.k = add("k", shape_.n_embd, size_.d_head, GGML_TYPE_F16);
        at.head = add("head", shape_.n_embd, size_.n_head, GGML_TYPE_F16);
        at.q_norm = add("q_norm", size_.d_head, 1, GGML_TYPE_F32);
        at.k_norm = add("k_norm", size_.d_head, 1, GGML_TYPE_F32);
        fill(at.q, shape_.n_query_channels());
        fill(at.k, shape_.n_embd);
        fill(at.head, shape_.n_embd);
        std::ranges::fill(parameters_[at.q_norm].value, 1.0F);
        std::ranges::fill(parameters_[at.k_norm].value, 1.0F);
        if (options_.loss == IndexerLoss::kLogs) {
            at.bias = add_parameter(parameters_, cat("blk.", layer, ".indexer_bias"),
                                    {size_.n_group, 1, 1, 1}, GGML_TYPE_F32);
        }
        layers_.push_back(at);
    }

    template <typename T>
    [[nodiscard]] IndexerParts<T> parts(const LayerPlaces& at,
                                        std::vector<float> Parameter::*which) {
        const auto of = [&](size_t i) { return std::span<T>(parameters_[i].*which); };
        return {.q = of(at.q),
                .k = of(at.k),
                .head = of(at.head),
                .q_norm = of(at.q_norm),
                .k_norm = of(at.k_norm),
                .bias = at.bias ? of(*at.bias) : std::span<T>()};
    }

    /// Layers go to threads whole, so that results do not depend on how many there are.
    template <typename Work>
    void in_layers(const Work& work) const {
        backend_.share_out(std::ssize(layers_),
                           [&](int64_t i, int /*thread*/) { work(static_cast<size_t>(i)); });
    }

    const std::vector<IndexerTarget>& targets_of(const Example& e) {
        return targets_.of(
            example_key(e), layers_.size(), [&](const auto& work) { in_layers(work); },
            [&](size_t i) {
                IndexerTarget target = target_of(e, layers_[i].layer);
                target.divisor = 1;  // nats a layer: Adam does not mind the scale
                return target;
            });
    }

    [[nodiscard]] IndexerTarget target_of(const Example& e, int64_t layer) const {
        if (options_.response == Response::kRepetition) {
            return repetition_target(e.layers[static_cast<size_t>(layer)].scores, shape_.n_head_kv,
                                     lesson_, e.cuts);
        }
        const ExampleLayer of(e, layer, shape_, e.n / 2);
        return indexer_target(of.record(), IndexerForm::kLabelled, lesson_);
    }

    double learn_document(const Example& e, double share) {
        const std::vector<IndexerTarget>& targets = targets_of(e);
        std::vector<double> losses(layers_.size());
        const auto weight = static_cast<float>(share / static_cast<double>(layers_.size()));
        in_layers([&](size_t i) {
            const ExampleLayer layer(e, layers_[i].layer, shape_, e.n / 2);
            const auto weights = parts<const float>(layers_[i], &Parameter::value);
            const IndexerNet net(size_, weights, layer.record());
            losses[i] = indexer_loss(net, targets[i], options_.loss, weight,
                                     parts<float>(layers_[i], &Parameter::gradient));
        });
        return std::accumulate(losses.begin(), losses.end(), 0.0) /
               static_cast<double>(losses.size());
    }

    /// The loss, and how many of the teacher's most important keys are among the indexer's: the
    /// groups' mean.
    std::vector<double> examine_layer(const Example& e, size_t i, const IndexerTarget& target) {
        const ExampleLayer layer(e, layers_[i].layer, shape_, e.n / 2);
        const auto weights = parts<const float>(layers_[i], &Parameter::value);
        const IndexerNet net(size_, weights, layer.record());
        std::vector<double> out = {indexer_loss(net, target, options_.loss)};
        out.resize(1 + kCutShares.size());
        const std::vector<float> found = net.importance(target.at).largest;
        const auto n_key = static_cast<size_t>(target.at.n_keys());
        for (size_t first = 0; first < found.size(); first += n_key) {
            const auto recall = recalls(std::span(target.share).subspan(first, n_key),
                                        std::span(found).subspan(first, n_key));
            for (size_t cut = 0; cut < recall.size(); ++cut) {
                out[1 + cut] += recall.at(cut) / static_cast<double>(size_.n_group);
            }
        }
        return out;
    }

    const Backend& backend_;
    AttentionShape shape_;
    IndexerTrainingOptions options_;
    IndexerShape size_;
    IndexerLesson lesson_;
    Parameters parameters_;
    std::vector<LayerPlaces> layers_;
    ExampleNotes<IndexerTarget> targets_;
};

}  // namespace

std::unique_ptr<Objective> make_indexer_objective(const ObjectiveInputs& in) {
    return std::make_unique<IndexerTraining>(in);
}

}  // namespace palimpsest
