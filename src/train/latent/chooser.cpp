#include "train/latent/chooser.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "core/digest.h"
#include "core/error.h"
#include "memory/budget.h"
#include "memory/eviction/allocation.h"
#include "memory/policy/gate_kernel.h"
#include "train/activations.h"
#include "train/example_layer.h"
#include "train/indexer/objective_indexer.h"

namespace palimpsest {

namespace {

/// Digest of numbers that a choice depends on.
std::string digest_of(std::span<const std::span<const std::byte>> parts) {
    Digest digest;
    for (const auto& part : parts) digest.add(part);
    return digest.hex();
}

/// One number a row for all heads of a layer, or for each group of them, and so many rows a layer.
class LayerChooser : public Chooser {
 public:
    explicit LayerChooser(const ObjectiveInputs& in)
        : backend_(in.backend),
          shape_(attention_shape(in.shape)),
          layers_(evicting_layers(in.shape)) {}

    [[nodiscard]] std::vector<HeadRows> choose(const Example& e, int64_t n_prompt,
                                               double share) const override {
        std::vector<HeadRows> all(layers_.size());
        backend_.share_out(std::ssize(layers_), [&](int64_t i, int /*thread*/) {
            const auto at = static_cast<size_t>(i);
            const ExampleLayer layer(e, layers_[at], shape_, n_prompt);
            const std::vector<float> found = importance(layer.record(), at);
            const int64_t n_in_group = shape_.n_head_kv * n_prompt / std::ssize(found);
            for (auto of = found.begin(); of != found.end(); of += n_prompt) {
                const std::vector<int32_t> rows =
                    rows_to_evict({of, of + n_prompt}, share, kTrainedSinks);
                all[at].insert(all[at].end(), static_cast<size_t>(n_in_group), rows);
            }
        });
        return all;
    }

 private:
    /// How important each row of the prompt is to the prompt itself, in the i-th evicting layer:
    /// [group][n_prompt], the groups being of as many KV heads each.
    [[nodiscard]] virtual std::vector<float> importance(const LayerRecord& record,
                                                        size_t i) const = 0;

    const Backend& backend_;
    AttentionShape shape_;
    std::vector<int64_t> layers_;
};

class AttentionChooser final : public LayerChooser {
 public:
    using LayerChooser::LayerChooser;
    [[nodiscard]] std::string settings() const override { return "chooser=attention"; }

 private:
    [[nodiscard]] std::vector<float> importance(const LayerRecord& record,
                                                size_t /*i*/) const override {
        const LayerRecord prompt = record.first(record.n_prompt, record.n_prompt);
        return indexer_target(prompt, IndexerForm::kAllPairs, {}).share;
    }
};

class WindowChooser final : public LayerChooser {
 public:
    using LayerChooser::LayerChooser;
    [[nodiscard]] std::string settings() const override { return "chooser=window"; }

 private:
    [[nodiscard]] std::vector<float> importance(const LayerRecord& record,
                                                size_t /*i*/) const override {
        std::vector<float> recency(static_cast<size_t>(record.n_prompt));
        std::iota(recency.begin(), recency.end(), 0.0F);
        return recency;
    }
};

/// A sidecar's indexer, as the trainer runs it.
class TrainedIndexer {
 public:
    TrainedIndexer(const ObjectiveInputs& in, const IndexerWeights& w)
        : size_({.n_head = w.n_head,
                 .d_head = w.d_head,
                 .epsilon = w.epsilon,
                 .activation = w.activation,
                 .n_group = w.n_group}),
          n_recent_(w.n_recent) {
        require(w.norm == NormKind::kRms && w.is_causal,
                "the sidecar's indexer is of a kind that is not trained here");
        for (const int64_t i : evicting_layers(in.shape)) {
            add(w.layers[static_cast<size_t>(i)]);
        }
    }

    [[nodiscard]] std::string settings() const {
        std::vector<std::span<const std::byte>> parts;
        for (const Layer& of : layers_) {
            for (const auto* part : {&of.q, &of.k, &of.head, &of.q_norm, &of.k_norm, &of.bias}) {
                parts.push_back(std::as_bytes(std::span(*part)));
            }
        }
        std::string text = cat("chooser=", digest_of(parts));
        if (size_.activation != Activation::kRelu) text += activation_name(size_.activation);
        if (size_.n_group > 1) text += cat("/", size_.n_group);
        if (n_recent_ > 0) text += cat(" recent=", n_recent_);
        return text;
    }

    /// How important each row of the prompt is to the prompt itself, in the i-th evicting layer:
    /// [group][n_prompt].
    [[nodiscard]] std::vector<float> importance(const LayerRecord& record, size_t i) const {
        const Layer& of = layers_[i];
        const IndexerParts<const float> weights = {of.q,      of.k,      of.head,
                                                   of.q_norm, of.k_norm, of.bias};
        const int64_t n = record.n_prompt;
        std::vector<float> found =
            IndexerNet(size_, weights, record)
                .importance({.first_query = 0, .end_query = n, .first_key = 0, .end_key = n})
                .largest;
        for (size_t at = 0; at < found.size(); ++at) {
            const bool stays = static_cast<int64_t>(at) % n >= n - n_recent_;
            if (stays) found[at] = std::numeric_limits<float>::infinity();
        }
        return found;
    }

 private:
    struct Layer {
        std::vector<float> q, k, head, q_norm, k_norm, bias;
    };

    void add(const IndexerLayer& from) {
        require(from.k_bias == nullptr && from.head_bias == nullptr &&
                    from.q_norm.bias == nullptr && from.k_norm.bias == nullptr,
                "the sidecar's indexer has biases, which are not trained here");
        layers_.push_back({.q = Graph::read(from.q),
                           .k = Graph::read(from.k),
                           .head = Graph::read(from.head),
                           .q_norm = Graph::read(from.q_norm.weight),
                           .k_norm = Graph::read(from.k_norm.weight),
                           .bias = from.bias});
    }

    IndexerShape size_;
    int64_t n_recent_;
    std::vector<Layer> layers_;
};

class IndexerChooser final : public LayerChooser {
 public:
    IndexerChooser(const ObjectiveInputs& in, const IndexerWeights& w)
        : LayerChooser(in), indexer_(in, w) {}
    [[nodiscard]] std::string settings() const override { return indexer_.settings(); }

 private:
    [[nodiscard]] std::vector<float> importance(const LayerRecord& record,
                                                size_t i) const override {
        return indexer_.importance(record, i);
    }

    TrainedIndexer indexer_;
};

/// A number a row and head; all heads of all layers compete, as the allocator `global` has it.
class CompetingChooser : public Chooser {
 public:
    explicit CompetingChooser(const ObjectiveInputs& in)
        : backend_(in.backend), layers_(evicting_layers(in.shape)) {
        const OptionMap none;
        OptionReader reader("the allocator of a training", none);
        Observers none_observe;
        allocator_ = make_global({.shape = in.shape, .options = reader, .observers = none_observe});
    }

    [[nodiscard]] std::vector<HeadRows> choose(const Example& e, int64_t n,
                                               double share) const override {
        std::vector<int32_t> positions(static_cast<size_t>(n));
        std::iota(positions.begin(), positions.end(), 0);
        std::vector<LayerCandidates> layers(layers_.size());
        const Protection protection = {.n_sink = kTrainedSinks};
        const std::vector<uint8_t> marks = protection.mark(positions, n);
        backend_.share_out(std::ssize(layers_), [&](int64_t i, int /*thread*/) {
            LayerCandidates& of = layers[static_cast<size_t>(i)];
            of.scores = scores(e, n, static_cast<size_t>(i));
            of.is_protected.assign(of.scores.size(), marks);
            of.view.heads.assign(of.scores.size(),
                                 {.positions = positions, .rotary = positions, .rows = {}});
        });
        const auto counts =
            allocator_->allocate(layers, {.exact = static_cast<double>(n) * (1 - share),
                                          .entries = kept_of(n, share),
                                          .evicted = share,
                                          .is_cap = false,
                                          .most = n});
        std::vector<HeadRows> gone(layers.size());
        for (size_t i = 0; i < layers.size(); ++i) {
            for (size_t h = 0; h < counts[i].size(); ++h) {
                const std::vector<int32_t> kept = select_entries({.scores = layers[i].scores[h],
                                                                  .positions = positions,
                                                                  .is_protected = marks,
                                                                  .n_sink = kTrainedSinks},
                                                                 counts[i][h]);
                gone[i].push_back(complement(kept, n));
            }
        }
        return gone;
    }

 protected:
    /// The evicting layers, in order.
    [[nodiscard]] const std::vector<int64_t>& layers() const { return layers_; }

 private:
    /// Of the first `n` rows in the i-th evicting layer: [KV head][row].
    [[nodiscard]] virtual Scores scores(const Example& e, int64_t n, size_t i) const = 0;

    const Backend& backend_;
    std::vector<int64_t> layers_;
    std::unique_ptr<BudgetAllocator> allocator_;
};

class CompetingIndexerChooser final : public CompetingChooser {
 public:
    CompetingIndexerChooser(const ObjectiveInputs& in, const IndexerWeights& w)
        : CompetingChooser(in), shape_(attention_shape(in.shape)), indexer_(in, w) {}
    [[nodiscard]] std::string settings() const override {
        return cat(indexer_.settings(), " global");
    }

 private:
    [[nodiscard]] Scores scores(const Example& e, int64_t n, size_t i) const override {
        const ExampleLayer layer(e, layers()[i], shape_, n);
        const std::vector<float> found = indexer_.importance(layer.record(), i);
        const int64_t n_in_group = shape_.n_head_kv * n / std::ssize(found);
        Scores all;
        for (int64_t h = 0; h < shape_.n_head_kv; ++h) {
            const auto first = found.begin() + h / n_in_group * n;
            all.emplace_back(first, first + n);
        }
        return all;
    }

    AttentionShape shape_;
    TrainedIndexer indexer_;
};

class GateChooser final : public CompetingChooser {
 public:
    GateChooser(const ObjectiveInputs& in, const GateWeights& w)
        : CompetingChooser(in), n_embd_(in.shape.n_embd), weights_(w) {
        for (const int64_t i : layers()) {
            require(layer(i).retention.weight.empty(),
                    "the sidecar's gate lets scores fade, which is not trained here");
        }
    }

    [[nodiscard]] std::string settings() const override {
        std::vector<std::span<const std::byte>> parts;
        for (const int64_t i : layers()) {
            const GateLayer& of = layer(i);
            for (const auto* part : {&of.in_norm.weight, &of.in_norm.bias, &of.mid_norm.weight,
                                     &of.mid_norm.bias, &of.magnitude.weight, &of.magnitude.bias}) {
                parts.push_back(std::as_bytes(std::span(*part)));
            }
            parts.emplace_back(of.in);
        }
        return cat("chooser=", digest_of(parts));
    }

 private:
    [[nodiscard]] const GateLayer& layer(int64_t i) const {
        return weights_.layers[static_cast<size_t>(i)];
    }

    [[nodiscard]] Scores scores(const Example& e, int64_t n, size_t i) const override {
        const auto& halves = e.layers.at(static_cast<size_t>(layers()[i])).hidden;
        std::vector<float> rows(static_cast<size_t>(n * n_embd_));
        ggml_fp16_to_fp32_row(halves.data(), rows.data(), std::ssize(rows));
        const GateLayer& by = layer(layers()[i]);
        for (int64_t t = 0; t < n; ++t) {
            float* row = rows.data() + t * n_embd_;
            normalise_for_gate(weights_, by, row, row);
        }
        const std::vector<float> found = rate_by_gate(weights_, by, rows).magnitude;
        Scores all(by.magnitude.bias.size());
        for (size_t at = 0; at < found.size(); ++at) all[at % all.size()].push_back(found[at]);
        return all;
    }

    int64_t n_embd_;
    const GateWeights& weights_;
};

}  // namespace

std::unique_ptr<Chooser> make_chooser(const ObjectiveInputs& in) {
    if (in.sidecar != nullptr && in.sidecar->gate() != nullptr) {
        return std::make_unique<GateChooser>(in, *in.sidecar->gate());
    }
    if (in.sidecar != nullptr && in.sidecar->indexer() != nullptr) {
        const IndexerWeights& w = *in.sidecar->indexer();
        if (w.allocator == "global") return std::make_unique<CompetingIndexerChooser>(in, w);
        return std::make_unique<IndexerChooser>(in, w);
    }
    return std::make_unique<AttentionChooser>(in);
}

std::vector<std::unique_ptr<Chooser>> make_choosers(const ObjectiveInputs& in) {
    std::vector<std::unique_ptr<Chooser>> all;
    all.push_back(make_chooser(in));
    if (dynamic_cast<AttentionChooser*>(all.front().get()) == nullptr) {
        all.push_back(std::make_unique<AttentionChooser>(in));
    }
    all.push_back(std::make_unique<WindowChooser>(in));
    return all;
}

}  // namespace palimpsest
