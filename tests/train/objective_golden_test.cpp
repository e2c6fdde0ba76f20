// The losses of the indexer and of the latent memory, their gradients, and six steps of AdamW,
// against golden vectors made with automatic differentiation in f64.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>

#include "support/golden.h"
#include "support/layer_tap.h"
#include "train/indexer/objective_indexer.h"
#include "train/latent/objective_memory.h"
#include "train/optimizer.h"

namespace palimpsest {
namespace {

using nlohmann::json;

constexpr double kLoss = 1e-4, kGradient = 1e-3, kTrajectory = 1e-2;
constexpr int64_t kSinks = 4;

using Tensors = std::map<std::string, std::vector<float>>;

struct Losses {
    std::vector<double> indexer, memory;  // [layer]

    [[nodiscard]] static double mean(const std::vector<double>& x) {
        double sum = 0;
        for (const double y : x) sum += y;
        return sum / static_cast<double>(x.size());
    }
};

IndexerForm form_of(const std::string& name) {
    if (name == "labelled") return IndexerForm::kLabelled;
    return name == "all_pairs" ? IndexerForm::kAllPairs : IndexerForm::kLogitMax;
}

class ObjectiveGolden : public ::testing::TestWithParam<const char*> {
 protected:
    void SetUp() override {
        const auto found = testing::oracles();
        if (!found) GTEST_SKIP() << "no golden vectors; set PALIMPSEST_ORACLES to their folder";
        golden_folder = *found / "learned" / GetParam();
        golden = testing::read_json(golden_folder / "train.json");
        memory_weight = golden["memory_loss_weight"];
        Backend backend(1);
        const LoadedModel model((*found / "families" / GetParam() / "model.gguf").string(),
                                backend);
        n_model_layer = model.config().n_layer;
        for (const json& sample : golden["samples"]) {
            tapped_samples.push_back(
                testing::tap_layers(model, backend, sample["tokens"].get<std::vector<TokenId>>()));
            prompt_lengths.push_back(sample["n_prompt"]);
        }
        const GgufFile sidecar = GgufFile::open((golden_folder / "sidecar.gguf").string());
        indexer_shape = {.n_head = sidecar.integer("evict.indexer.head_count").value(),
                         .d_head = sidecar.integer("evict.indexer.key_length").value()};
        for (const GgufTensor& t : sidecar.tensors()) {
            std::vector<float> values(t.data.size() / sizeof(float));
            std::memcpy(values.data(), t.data.data(), t.data.size());
            all_weights[std::string(t.name)] = values;
        }
    }

    /// A layer's indexer within `all`: T is const float or float.
    template <typename T, typename All>
    static IndexerParts<T> indexer_of(All& all, int64_t layer) {
        const std::string blk = "blk." + std::to_string(layer) + ".indexer_";
        return {.q = all.at(blk + "q.weight"),
                .k = all.at(blk + "k.weight"),
                .head = all.at(blk + "head.weight"),
                .q_norm = all.at(blk + "q_norm.weight"),
                .k_norm = all.at(blk + "k_norm.weight"),
                .bias = {}};
    }
    template <typename T, typename All>
    static MemoryParts<T> memory_of(All& all, int64_t layer) {
        const std::string blk = "blk." + std::to_string(layer) + ".memory_";
        return {.phi = all.at(blk + "phi.weight"), .gate = all.at(blk + "gate.logit")};
    }

    /// Rows that go, by what the prompt's own queries find.
    [[nodiscard]] std::vector<int32_t> evicted(const IndexerNet& net, int64_t n_prompt) const {
        const Importance found = net.importance(
            {.first_query = 0, .end_query = n_prompt, .first_key = 0, .end_key = n_prompt});
        return rows_to_evict(found.largest, golden["ratio"], kSinks);
    }

    /// Losses of the batch, and the gradient of indexer + weight * memory.
    [[nodiscard]] Losses losses(IndexerForm form, const Tensors& weights, Tensors& gradient) const {
        Losses all;
        const auto share = static_cast<float>(1.0 / static_cast<double>(n_model_layer) /
                                              static_cast<double>(tapped_samples.size()));
        for (int64_t layer = 0; layer < n_model_layer; ++layer) {
            const auto indexer = indexer_of<const float>(weights, layer);
            double of_indexer = 0;
            double of_memory = 0;
            for (size_t i = 0; i < tapped_samples.size(); ++i) {
                const LayerRecord record =
                    tapped_samples[i][static_cast<size_t>(layer)].record(prompt_lengths[i]);
                const IndexerNet net(indexer_shape, indexer, record);
                of_indexer += indexer_loss(net, indexer_target(record, form, {.n_sink = kSinks}),
                                           IndexerLoss::kDivergence, share,
                                           indexer_of<float>(gradient, layer));
                const HeadRows gone(static_cast<size_t>(record.shape.n_head_kv),
                                    evicted(net, prompt_lengths[i]));
                const MemoryTarget target = memory_target(record, gone);
                of_memory += memory_loss(record, target, memory_of<const float>(weights, layer), {},
                                         share * static_cast<float>(memory_weight),
                                         memory_of<float>(gradient, layer));
            }
            all.indexer.push_back(of_indexer / static_cast<double>(tapped_samples.size()));
            all.memory.push_back(of_memory / static_cast<double>(tapped_samples.size()));
        }
        return all;
    }

    [[nodiscard]] Tensors zeros() const {
        Tensors all = all_weights;
        for (auto& [name, values] : all) std::ranges::fill(values, 0.0F);
        return all;
    }

    static void expect_losses(const json& expected, const std::vector<double>& got) {
        ASSERT_EQ(expected.size(), got.size());
        for (size_t i = 0; i < got.size(); ++i) {
            EXPECT_NEAR(got[i], expected[i].get<double>(), kLoss * expected[i].get<double>())
                << "layer " << i;
        }
    }

    std::filesystem::path golden_folder;
    json golden;
    double memory_weight = 0;
    int64_t n_model_layer = 0;
    IndexerShape indexer_shape;
    std::vector<std::vector<testing::TappedLayer>> tapped_samples;
    std::vector<int64_t> prompt_lengths;
    Tensors all_weights;
};

TEST_P(ObjectiveGolden, KeepsTheSameRows) {
    for (size_t i = 0; i < tapped_samples.size(); ++i) {
        for (int64_t layer = 0; layer < n_model_layer; ++layer) {
            const LayerRecord record =
                tapped_samples[i][static_cast<size_t>(layer)].record(prompt_lengths[i]);
            const auto indexer = indexer_of<const float>(all_weights, layer);
            const IndexerNet net(indexer_shape, indexer, record);
            std::vector<int32_t> all = evicted(net, prompt_lengths[i]);
            const auto kept = golden["kept_prompt_rows"][i][static_cast<size_t>(layer)]
                                  .get<std::vector<int32_t>>();
            all.insert(all.end(), kept.begin(), kept.end());
            std::ranges::sort(all);
            ASSERT_EQ(std::ssize(all), prompt_lengths[i]);
            for (size_t t = 0; t < all.size(); ++t) EXPECT_EQ(all[t], static_cast<int32_t>(t));
        }
    }
}

TEST_P(ObjectiveGolden, LossesAndGradientsAreTheSame) {
    for (const json& form : golden["forms"]) {
        SCOPED_TRACE(form["form"].get<std::string>());
        Tensors gradient = zeros();
        const Losses got = losses(form_of(form["form"]), all_weights, gradient);
        expect_losses(form["indexer_loss_per_layer"], got.indexer);
        expect_losses(form["memory_loss_per_layer"], got.memory);
        const std::vector<float> flat =
            testing::read_f32(golden_folder / form["gradients"]["file"].get<std::string>());
        for (const auto& [name, where] : form["gradients"]["tensors"].items()) {
            const std::vector<float>& mine = gradient.at(name);
            const auto expected =
                std::span(flat).subspan(where["offset"].get<size_t>(), mine.size());
            double largest = 0;
            for (const float x : expected) {
                largest = std::max(largest, std::abs(static_cast<double>(x)));
            }
            EXPECT_LE(testing::max_difference(mine, expected), kGradient * largest) << name;
        }
    }
}

TEST_P(ObjectiveGolden, SixStepsOfAdamWGoTheSameWay) {
    for (const json& form : golden["forms"]) {
        SCOPED_TRACE(form["form"].get<std::string>());
        const json& adamw = form["adamw"];
        Parameters parameters;
        for (const auto& [name, values] : all_weights) {
            add_parameter(parameters, name, {std::ssize(values), 1, 1, 1}, GGML_TYPE_F32);
            parameters.back().value = values;
        }
        // The golden steps hold no gradient's length.
        Optimizer optimizer(parameters, {.first = adamw["betas"][0],
                                         .second = adamw["betas"][1],
                                         .epsilon = adamw["eps"],
                                         .most_norm = std::numeric_limits<double>::infinity()});
        for (const json& expected : adamw["losses_before_each_step"]) {
            Tensors weights;
            for (const Parameter& of : parameters) weights[of.name] = of.value;
            Tensors gradient = zeros();
            const Losses got = losses(form_of(form["form"]), weights, gradient);
            EXPECT_NEAR(Losses::mean(got.indexer) / expected["indexer"].get<double>(), 1,
                        kTrajectory)
                << optimizer.n_done;
            EXPECT_NEAR(Losses::mean(got.memory) / expected["memory"].get<double>(), 1, kTrajectory)
                << optimizer.n_done;
            for (Parameter& of : parameters) of.gradient = gradient.at(of.name);
            optimizer.step(parameters, adamw["lr"]);
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Models, ObjectiveGolden, ::testing::Values("llama", "qwen3"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace palimpsest
