// The latent memory that is a part of the softmax (memory/residue_latent_softmax.cpp).
//
// It begins as k-means would have it: a feature is a cluster of keys, to which an entry belongs by
// its distance, and which a query meets as it would meet the cluster's mean key. From there both
// maps are learnt.

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/random.h"
#include "memory/kernels/k_means.h"
#include "train/activations.h"
#include "train/example_layer.h"
#include "train/latent/latent_learner.h"
#include "train/latent/objective_softmax_memory.h"
#include "train/rows.h"

namespace palimpsest {

namespace {

constexpr int64_t kMostKeys = 4096;  // of a head, that are clustered

/// Places of one layer's tensors among all parameters.
struct Places {
    int64_t layer = 0;
    size_t key = 0, key_bias = 0, query = 0, query_bias = 0;
};

/// The mean of squares, over channels and rows, of what is left when each channel's mean is taken
/// from it.
float variance(std::span<const float> rows, int64_t d) {
    const int64_t n_rows = std::ssize(rows) / d;
    const auto n = static_cast<double>(n_rows);
    double sum = 0;
    for (int64_t c = 0; c < d; ++c) {
        double first = 0;
        double second = 0;
        for (size_t i = static_cast<size_t>(c); i < rows.size(); i += static_cast<size_t>(d)) {
            const auto x = static_cast<double>(rows[i]);
            first += x;
            second += x * x;
        }
        sum += second / n - first / n * (first / n);
    }
    return static_cast<float>(sum / static_cast<double>(d));
}

class SoftmaxLearner final : public LatentLearner {
 public:
    explicit SoftmaxLearner(const ObjectiveInputs& in)
        : backend_(in.backend),
          shape_(attention_shape(in.shape)),
          n_feature_(in.options.n_feature),
          seed_(in.options.seed) {
        Random random(seed_);
        for (const int64_t i : evicting_layers(in.shape)) add_layer(i, random);
    }

    void begin(std::span<const Example* const> examples) override {
        for (const Places& at : places_) {
            std::vector<std::vector<float>> keys(static_cast<size_t>(shape_.n_head_kv));
            for (const Example* e : examples) {
                const ExampleLayer layer(*e, at.layer, shape_, e->n / 2);
                std::vector<int32_t> tokens;
                const int64_t stride =
                    std::max<int64_t>(1, e->n / 2 * std::ssize(examples) / kMostKeys);
                for (int64_t t = kTrainedSinks; t < e->n / 2; t += stride) {
                    tokens.push_back(static_cast<int32_t>(t));
                }
                for (int64_t h = 0; h < shape_.n_head_kv; ++h) {
                    const auto rows = rows_of_head(tokens, layer.record(), &LayerRecord::key, h);
                    std::vector<float>& all = keys[static_cast<size_t>(h)];
                    all.insert(all.end(), rows.begin(), rows.end());
                }
            }
            for (int64_t h = 0; h < shape_.n_head_kv; ++h) {
                begin_head(at, h, keys[static_cast<size_t>(h)]);
            }
        }
    }

    double loss(const LayerRecord& record, const MemoryTarget& target, size_t i,
                float weight) override {
        const auto weights = parts<const float>(places_[i], &Parameter::value);
        if (weight == 0) return softmax_memory_loss(record, target, weights, 0, {});
        // A document of which little is missing would teach next to nothing beside one of which
        // much is: each counts by the root of it.
        double squared = 0;
        for (const float x : target.missing) {
            squared += static_cast<double>(x) * static_cast<double>(x);
        }
        const double mean = squared / static_cast<double>(target.missing.size());
        if (!(mean > 0)) return softmax_memory_loss(record, target, weights, 0, {});
        return softmax_memory_loss(record, target, weights,
                                   weight / static_cast<float>(std::sqrt(mean)),
                                   parts<float>(places_[i], &Parameter::gradient));
    }

    void describe(GgufWriter& to) const override { to.set_text("evict.memory.form", "softmax"); }

 private:
    void add_layer(int64_t layer, Random& random) {
        const int64_t n_row = n_feature_ * shape_.n_head_kv;
        const auto add = [&](std::string_view name, int64_t n_in, int64_t n_out) {
            return add_parameter(parameters(), cat("blk.", layer, ".memory_", name),
                                 {n_in, n_out, 1, 1}, GGML_TYPE_F32);
        };
        const Places at = {.layer = layer,
                           .key = add("key.weight", shape_.d_head, n_row),
                           .key_bias = add("key.bias", n_row, 1),
                           .query = add("query.weight", shape_.d_head, n_row),
                           .query_bias = add("query.bias", n_row, 1)};
        const double most = 1.0 / std::sqrt(static_cast<double>(shape_.d_head));
        for (const size_t weights : {at.key, at.query}) {
            for (float& x : parameters()[weights].value) {
                x = static_cast<float>(most * (2 * random.unit() - 1));
            }
        }
        places_.push_back(at);
    }

    /// Near a cluster of mean c, with entries spread around it by s in each channel:
    /// exp(-|k - c|^2 / 2 s^2), of which the softmax over clusters leaves c . k / s^2 - |c|^2 / 2
    /// s^2.
    void begin_head(const Places& at, int64_t head, std::span<const float> keys) {
        const int64_t d = shape_.d_head;
        const float spread = variance(keys, d);
        if (!(spread > 0)) return;
        const Clustering found = k_means(
            backend_, keys, d, {.k = std::min(n_feature_, std::ssize(keys) / d), .seed = seed_});
        const int64_t n = std::ssize(found.centroids) / d;
        for (int64_t j = 0; j < n; ++j) {
            const float* mean = found.centroids.data() + j * d;
            const int64_t row = head * n_feature_ + j;
            for (int64_t c = 0; c < d; ++c) {
                value(at.key, row * d + c) = mean[c] / (2 * spread);
                value(at.query, row * d + c) = mean[c] * shape_.scale;
            }
            value(at.key_bias, row) = -dot_rows(mean, mean, d) / (4 * spread);
        }
    }

    [[nodiscard]] float& value(size_t parameter, int64_t i) {
        return parameters()[parameter].value[static_cast<size_t>(i)];
    }

    template <typename T>
    [[nodiscard]] SoftmaxMemoryParts<T> parts(const Places& at,
                                              std::vector<float> Parameter::*which) {
        return {.key = std::span<T>(parameters()[at.key].*which),
                .key_bias = std::span<T>(parameters()[at.key_bias].*which),
                .query = std::span<T>(parameters()[at.query].*which),
                .query_bias = std::span<T>(parameters()[at.query_bias].*which)};
    }

    const Backend& backend_;
    AttentionShape shape_;
    int64_t n_feature_;
    uint64_t seed_;
    std::vector<Places> places_;
};

}  // namespace

std::unique_ptr<LatentLearner> make_softmax_learner(const ObjectiveInputs& in) {
    return std::make_unique<SoftmaxLearner>(in);
}

}  // namespace palimpsest
