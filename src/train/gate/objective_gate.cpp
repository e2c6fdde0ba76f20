// Trains the policy `gate` to foretell, from a token's hidden state, the logarithm of the largest
// attention weight that repeating the text pays to it: KVzip's measure without reading twice.
// The successor of IndexMem learns through the whole model's loss, which costs a backward pass
// through it; regression needs none, and its scores compare across heads and layers.

#include "train/gate/objective_gate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/random.h"
#include "train/activations.h"
#include "train/gate/gate_network.h"
#include "train/objective.h"

namespace palimpsest {

namespace {

constexpr float kFirstDeviation = 0.02F;  // of magnitude weights: scores begin near their bias

std::array<float, kCutShares.size()> log_cuts(const Example& of) {
    std::array<float, kCutShares.size()> logs{};
    std::ranges::transform(of.cuts, logs.begin(), log_score);
    return logs;
}

/// Normally distributed; two uniform numbers each (Box and Muller, 1958).
float normal(Random& random) {
    const double radius = std::sqrt(-2 * std::log(1 - random.unit()));
    return static_cast<float>(radius * std::cos(6.283185307179586 * random.unit()));
}

void fill_normal(std::vector<float>& to, float deviation, Random& random) {
    for (float& x : to) x = deviation * normal(random);
}

/// Places of one layer's tensors among all parameters.
struct LayerPlaces {
    int64_t layer = 0;
    size_t norm_weight = 0, norm_bias = 0, in = 0, mid_weight = 0, mid_bias = 0;
    size_t magnitude = 0, magnitude_bias = 0;
};

class GateObjective final : public Objective {
 public:
    explicit GateObjective(const ObjectiveInputs& in)
        : backend_(in.backend),
          size_({.n_embd = in.shape.n_embd,
                 .n_mid = in.options.n_mid,
                 .n_head_kv = in.shape.n_head_kv}) {
        require(size_.n_mid >= 1 && size_.n_mid <= 4096, "a gate's middle of ", size_.n_mid,
                "; it must be 1 to 4096");
        Random random(in.options.seed);
        for (const int64_t i : evicting_layers(in.shape)) add_layer(i, random);
        networks_.assign(static_cast<size_t>(backend_.n_threads()), GateNetwork(size_));
    }

    [[nodiscard]] Captured wanted() const override { return {.hidden = true, .scores = true}; }
    [[nodiscard]] Parameters& parameters() override { return parameters_; }

    /// Biases begin at the mean target, which Adam would take thousands of steps to reach.
    void begin(std::span<const Example* const> examples) override {
        for (const LayerPlaces& at : layers_) {
            std::vector<double> sums(static_cast<size_t>(size_.n_head_kv));
            double n = 0;
            for (const Example* e : examples) {
                const auto& scores = e->layers[static_cast<size_t>(at.layer)].scores;
                n += static_cast<double>(e->n - kTrainedSinks);
                for (size_t i = sums.size() * kTrainedSinks; i < scores.size(); ++i) {
                    sums[i % sums.size()] += double{log_score(scores[i])};
                }
            }
            std::vector<float>& bias = parameters_[at.magnitude_bias].value;
            for (size_t h = 0; h < sums.size() && n > 0; ++h) {
                bias[h] = static_cast<float>(sums[h] / n);
            }
        }
    }

    double learn(std::span<const Block> blocks) override {
        std::vector<double> losses(layers_.size());
        in_layers([&](size_t i, GateNetwork& network) {
            losses[i] = learn_layer(layers_[i], network, blocks);
        });
        return mean(losses);
    }

    std::vector<Measure> examine(std::span<const Example* const> held_out) override {
        double loss = 0;
        std::array<double, kCutShares.size()> recall{};
        for (const Example* e : held_out) {
            std::vector<float> truth;
            std::vector<float> guess;
            loss += rate(*e, truth, guess);
            const auto of = recalls(truth, guess);
            for (size_t i = 0; i < of.size(); ++i) recall.at(i) += of.at(i);
        }
        const double n = static_cast<double>(std::max<size_t>(held_out.size(), 1));
        std::vector<Measure> measures = {{"loss", loss / n}};
        for (size_t i = 0; i < recall.size(); ++i) {
            measures.push_back(
                {cat("recall_", std::lround(100 * kCutShares.at(i))), recall.at(i) / n});
        }
        return measures;
    }

    [[nodiscard]] std::string settings() const override { return cat("mid=", size_.n_mid); }

    void describe(GgufWriter& to) const override {
        to.set_count("evict.gate.mid_length", static_cast<uint32_t>(size_.n_mid));
        to.set_number("evict.gate.norm_epsilon", size_.epsilon);
    }

 private:
    void add_layer(int64_t layer, Random& random) {
        const auto add = [&](std::string_view name, int64_t n_in, int64_t n_out, ggml_type stored) {
            return add_parameter(parameters_, cat("blk.", layer, ".", name), {n_in, n_out, 1, 1},
                                 stored);
        };
        const auto [n_embd, n_mid, n_heads, epsilon] = size_;
        LayerPlaces at = {.layer = layer};
        at.norm_weight = add("gate_norm.weight", n_embd, 1, GGML_TYPE_F32);
        at.norm_bias = add("gate_norm.bias", n_embd, 1, GGML_TYPE_F32);
        at.in = add("gate_in.weight", n_embd, n_mid, GGML_TYPE_F16);
        at.mid_weight = add("gate_mid_norm.weight", n_mid, 1, GGML_TYPE_F32);
        at.mid_bias = add("gate_mid_norm.bias", n_mid, 1, GGML_TYPE_F32);
        at.magnitude = add("gate_magnitude.weight", n_mid, n_heads, GGML_TYPE_F16);
        at.magnitude_bias = add("gate_magnitude.bias", n_heads, 1, GGML_TYPE_F32);
        std::ranges::fill(parameters_[at.norm_weight].value, 1.0F);
        std::ranges::fill(parameters_[at.mid_weight].value, 1.0F);
        fill_normal(parameters_[at.in].value, 1 / std::sqrt(static_cast<float>(n_embd)), random);
        fill_normal(parameters_[at.magnitude].value, kFirstDeviation, random);
        layers_.push_back(at);
    }

    [[nodiscard]] GateTensors tensors(const LayerPlaces& at, std::vector<float> Parameter::*which) {
        const auto of = [&](size_t i) { return std::span<float>(parameters_[i].*which); };
        return {.norm_weight = of(at.norm_weight),
                .norm_bias = of(at.norm_bias),
                .in = of(at.in),
                .mid_norm_weight = of(at.mid_weight),
                .mid_norm_bias = of(at.mid_bias),
                .magnitude = of(at.magnitude),
                .magnitude_bias = of(at.magnitude_bias)};
    }

    /// Layers are shared out to threads whole, so that results do not depend on how many there are.
    template <typename Work>
    void in_layers(const Work& work) {
        backend_.share_out(std::ssize(layers_), [&](int64_t i, int thread) {
            work(static_cast<size_t>(i), networks_[static_cast<size_t>(thread)]);
        });
    }

    [[nodiscard]] static double mean(const std::vector<double>& of) {
        return std::accumulate(of.begin(), of.end(), 0.0) / static_cast<double>(of.size());
    }

    [[nodiscard]] std::vector<float> hidden_of(const Block& block, int64_t layer) const {
        const auto& from = block.of->layers[static_cast<size_t>(layer)].hidden;
        std::vector<float> rows(static_cast<size_t>(block.n * size_.n_embd));
        ggml_fp16_to_fp32_row(from.data() + block.begin * size_.n_embd, rows.data(),
                              block.n * size_.n_embd);
        return rows;
    }

    double learn_layer(const LayerPlaces& at, GateNetwork& network, std::span<const Block> blocks) {
        std::vector<float> hidden;
        for (const Block& b : blocks) {
            const std::vector<float> rows = hidden_of(b, at.layer);
            hidden.insert(hidden.end(), rows.begin(), rows.end());
        }
        const GateTensors values = tensors(at, &Parameter::value);
        const std::span<const float> guess = network.forward(values, hidden);
        const float share = 1 / static_cast<float>(guess.size() * layers_.size());
        std::vector<float> slopes;
        slopes.reserve(guess.size());
        double loss = 0;
        for (const Block& b : blocks) {
            const auto cuts = log_cuts(*b.of);
            const float* scores = b.of->layers[static_cast<size_t>(at.layer)].scores.data() +
                                  b.begin * size_.n_head_kv;
            for (int64_t i = 0; i < b.n * size_.n_head_kv; ++i) {
                const GateLoss l = gate_loss(guess[slopes.size()], log_score(scores[i]), cuts);
                loss += double{l.loss};
                slopes.push_back(l.slope * share);
            }
        }
        network.backward(values, slopes, tensors(at, &Parameter::gradient));
        return loss / static_cast<double>(guess.size());
    }

    /// Appends targets and scores of all entries but the sinks', layer after layer; their loss.
    double rate(const Example& e, std::vector<float>& truth, std::vector<float>& guess) {
        const Block block = {.of = &e, .begin = kTrainedSinks, .n = e.n - kTrainedSinks};
        const auto per_layer = static_cast<size_t>(block.n * size_.n_head_kv);
        truth.resize(layers_.size() * per_layer);
        guess.resize(truth.size());
        std::vector<double> losses(layers_.size());
        const auto cuts = log_cuts(e);
        in_layers([&](size_t i, GateNetwork& network) {
            const auto& scores = e.layers[static_cast<size_t>(layers_[i].layer)].scores;
            const std::span<const float> rated = network.forward(
                tensors(layers_[i], &Parameter::value), hidden_of(block, layers_[i].layer));
            for (size_t j = 0; j < per_layer; ++j) {
                const float y =
                    log_score(scores[static_cast<size_t>(kTrainedSinks * size_.n_head_kv) + j]);
                truth[i * per_layer + j] = y;
                guess[i * per_layer + j] = rated[j];
                losses[i] += double{gate_loss(rated[j], y, cuts).loss};
            }
            losses[i] /= static_cast<double>(per_layer);
        });
        return mean(losses);
    }

    const Backend& backend_;
    GateSize size_;
    Parameters parameters_;
    std::vector<LayerPlaces> layers_;
    std::vector<GateNetwork> networks_;  // a thread's own
};

std::vector<uint32_t> best(std::span<const float> of, size_t k) {
    std::vector<uint32_t> order(of.size());
    std::iota(order.begin(), order.end(), 0U);
    const auto middle = order.begin() + static_cast<std::ptrdiff_t>(k);
    std::nth_element(order.begin(), middle, order.end(), [&](uint32_t a, uint32_t b) {
        return of[a] != of[b] ? of[a] > of[b] : a < b;
    });
    order.erase(middle, order.end());
    return order;
}

}  // namespace

GateLoss gate_loss(float x, float y, std::span<const float> cuts) {
    GateLoss out = {.loss = 0.5F * (x - y) * (x - y), .slope = x - y};
    for (const float cut : cuts) {
        const float wanted = y >= cut ? 1.0F : 0.0F;
        const float z = x - cut;
        out.loss += std::max(z, 0.0F) - z * wanted + std::log1p(std::exp(-std::abs(z)));
        out.slope += 1 / (1 + std::exp(-z)) - wanted;
    }
    return out;
}

std::array<double, kCutShares.size()> recalls(std::span<const float> truth,
                                              std::span<const float> guess) {
    check(truth.size() == guess.size(), "a guess for every truth");
    std::array<double, kCutShares.size()> shares{};
    for (size_t i = 0; i < shares.size(); ++i) {
        const auto k = static_cast<size_t>(kCutShares.at(i) * static_cast<double>(truth.size()));
        std::vector<bool> is_best(truth.size());
        for (const uint32_t at : best(truth, k)) is_best[at] = true;
        size_t n = 0;
        for (const uint32_t at : best(guess, k)) n += is_best[at] ? 1U : 0U;
        shares.at(i) = k == 0 ? 1.0 : static_cast<double>(n) / static_cast<double>(k);
    }
    return shares;
}

std::unique_ptr<Objective> make_gate_objective(const ObjectiveInputs& in) {
    return std::make_unique<GateObjective>(in);
}

}  // namespace palimpsest
