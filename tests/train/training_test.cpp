// The indexer and the latent memory as the trainer sees them: losses fall, threads do not matter,
// and what comes out is a sidecar that loads.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "core/error.h"
#include "core/random.h"
#include "memory/policy/policies.h"
#include "support/golden.h"
#include "train/latent/chooser.h"
#include "train/objective.h"
#include "train/optimizer.h"
#include "train/sidecar.h"

namespace palimpsest {
namespace {

constexpr int64_t kTokens = 40;

MemoryShape small_shape() {
    MemoryShape shape = {
        .n_layer = 3, .n_head = 4, .n_head_kv = 2, .d_head = 16, .windows = {0, 8, 0}};
    shape.n_embd = 24;
    return shape;
}

std::vector<ggml_fp16_t> halves(int64_t n, Random& random) {
    std::vector<ggml_fp16_t> x(static_cast<size_t>(n));
    for (auto& y : x) y = ggml_fp32_to_fp16(static_cast<float>(3 * random.unit() - 1.5));
    return x;
}

/// The second layer has a window: nothing was noted of it.
Example random_example(uint64_t seed) {
    const MemoryShape shape = small_shape();
    Random random(seed);
    Example e = {.n = kTokens, .layers = {}};
    e.layers.resize(3);
    for (const size_t i : {0U, 2U}) {
        LayerExample& of = e.layers[i];
        of.hidden = halves(kTokens * shape.n_embd, random);
        of.q_raw = halves(kTokens * shape.n_head * shape.d_head, random);
        of.q = halves(kTokens * shape.n_head * shape.d_head, random);
        of.k = halves(kTokens * shape.n_head_kv * shape.d_head, random);
        of.v = halves(kTokens * shape.n_head_kv * shape.d_head, random);
        for (int64_t j = 0; j < kTokens * shape.n_head_kv; ++j) {
            of.scores.push_back(static_cast<float>(random.unit()));
        }
    }
    return e;
}

/// Of so many steps over the same blocks.
std::vector<double> losses_of(Objective& objective, std::span<const Block> blocks, int n_step) {
    Optimizer optimizer(objective.parameters());
    std::vector<double> losses;
    for (int step = 0; step < n_step; ++step) {
        clear_gradients(objective.parameters());
        losses.push_back(objective.learn(blocks));
        optimizer.step(objective.parameters(), 0.01);
    }
    return losses;
}

class WholeDocumentTraining : public ::testing::TestWithParam<const char*> {
 protected:
    /// Losses of 40 steps over two documents.
    static std::vector<double> losses(int n_threads, const EvictionWeights* sidecar = nullptr) {
        const MemoryShape shape = small_shape();
        const Backend backend(n_threads);
        const auto objective =
            find_objective(GetParam())
                .make({.shape = shape, .backend = backend, .options = {}, .sidecar = sidecar});
        const Example a = random_example(1);
        const Example b = random_example(2);
        const std::vector<Block> blocks = {{.of = &a, .begin = 4, .n = 8},
                                           {.of = &b, .begin = 9, .n = 8},
                                           {.of = &a, .begin = 7, .n = 8}};
        std::vector<double> all = losses_of(*objective, blocks, 40);
        const std::vector<const Example*> held_out = {&a};
        for (const Measure& m : objective->examine(held_out)) all.push_back(m.value);
        return all;
    }
};

TEST_P(WholeDocumentTraining, LossesFallAndThreadsDoNotMatter) {
    const std::vector<double> one = losses(1);
    EXPECT_EQ(one, losses(3));
    EXPECT_LT(one[39], 0.8 * one[0]);
}

TEST_P(WholeDocumentTraining, WritesASidecarThatLoadsAndTrainsOn) {
    const MemoryShape shape = small_shape();
    const Backend backend(1);
    const BaseModel base = {.architecture = "llama", .fingerprint = "abc"};
    const ObjectiveKind& kind = find_objective(GetParam());
    const auto objective =
        kind.make({.shape = shape, .backend = backend, .options = {}, .sidecar = nullptr});
    const testing::TemporaryFile file("", ".gguf");
    write_sidecar(file.path(), "", kind.part, *objective, shape, base);
    const EvictionWeights weights(file.path(), backend, shape, base);
    EXPECT_EQ(weights.indexer() != nullptr, std::string_view(GetParam()) == "indexer");
    EXPECT_EQ(weights.latent() != nullptr, std::string_view(GetParam()) == "latent");
    EXPECT_TRUE(weights.warning().empty());
    // What was trained stays when another part is.
    const ObjectiveKind& other =
        find_objective(weights.indexer() != nullptr ? "latent" : "indexer");
    const auto next =
        other.make({.shape = shape, .backend = backend, .options = {}, .sidecar = &weights});
    const Example e = random_example(3);
    const std::vector<Block> blocks = {{.of = &e, .begin = 4, .n = 8}};
    EXPECT_GT(next->learn(blocks), 0);
    write_sidecar(file.path(), file.path(), other.part, *next, shape, base);
    const EvictionWeights both(file.path(), backend, shape, base);
    EXPECT_NE(both.indexer(), nullptr);
    EXPECT_NE(both.latent(), nullptr);
}

INSTANTIATE_TEST_SUITE_P(Parts, WholeDocumentTraining, ::testing::Values("indexer", "latent"),
                         [](const auto& test) { return std::string(test.param); });

TEST(IndexerTraining, AsksForARepetitionOnlyIfThatTeaches) {
    const MemoryShape shape = small_shape();
    const Backend backend(1);
    Example e = random_example(4);
    const std::vector<Block> blocks = {{.of = &e, .begin = 4, .n = 8}};
    std::vector<std::string> settings;
    std::vector<double> losses;
    for (const Response response : {Response::kRepetition, Response::kContinuation}) {
        const auto objective =
            find_objective("indexer").make({.shape = shape,
                                            .backend = backend,
                                            .options = {.indexer = {.response = response}},
                                            .sidecar = nullptr});
        EXPECT_EQ(objective->wanted().scores, response == Response::kRepetition);
        settings.push_back(objective->settings());
        if (response == Response::kContinuation) {
            for (LayerExample& of : e.layers) of.scores.clear();
        }
        losses.push_back(objective->learn(blocks));
    }
    EXPECT_NE(settings[0], settings[1]);
    EXPECT_NE(losses[0], losses[1]);
}

/// Of what an objective began with.
EvictionWeights written(const ObjectiveKind& kind, Objective& objective) {
    const Backend backend(1);
    const BaseModel base = {.architecture = "llama", .fingerprint = "abc"};
    const testing::TemporaryFile file("", ".gguf");
    write_sidecar(file.path(), "", kind.part, objective, small_shape(), base);
    return {file.path(), backend, small_shape(), base};
}

TEST(LatentTraining, HasAsManyFeaturesAsAskedFor) {
    const MemoryShape shape = small_shape();
    const Backend backend(1);
    const ObjectiveKind& kind = find_objective("latent");
    for (const LatentForm form : {LatentForm::kSoftmax, LatentForm::kResidual}) {
        for (const int64_t n : {int64_t{5}, ObjectiveOptions{}.n_feature}) {
            const auto objective = kind.make({.shape = shape,
                                              .backend = backend,
                                              .options = {.n_feature = n, .latent_form = form},
                                              .sidecar = nullptr});
            const EvictionWeights weights = written(kind, *objective);
            EXPECT_EQ(weights.latent()->form, form);
            EXPECT_EQ(weights.latent()->n_feature, n);
            const LatentLayer& layer = weights.latent()->layers[0];
            const bool residual = form == LatentForm::kResidual;
            EXPECT_EQ(std::ssize(layer.phi), residual ? n * shape.d_head : 0);
            EXPECT_EQ(std::ssize(layer.key.weight),
                      residual ? 0 : n * shape.d_head * shape.n_head_kv);
        }
    }
    EXPECT_THROW(
        (void)kind.make(
            {.shape = shape, .backend = backend, .options = {.n_feature = 0}, .sidecar = nullptr}),
        Error);
}

TEST(LatentTraining, TheDefaultTakesAtMostThreePercentOfAThousandEntries) {
    for (const int64_t d : {64, 80, 128, 256}) {
        const int64_t state = (ObjectiveOptions{}.n_feature * (d + 1) + 1) * 4;
        const int64_t cache = 4096 * d;  // keys and values, f16
        EXPECT_LE(100 * state, 3 * cache) << d;
    }
}

/// It begins as clusters of keys, and gives something back from the first step on.
TEST(LatentTraining, TheSoftmaxFormBeginsWithClusters) {
    const MemoryShape shape = small_shape();
    const Backend backend(2);
    const Example e = random_example(1);
    const std::vector<const Example*> examples = {&e};
    const auto given_back = [&](bool begins) {
        const auto objective = find_objective("latent").make(
            {.shape = shape, .backend = backend, .options = {.n_feature = 8}, .sidecar = nullptr});
        if (begins) objective->begin(examples);
        const auto measures = objective->examine(examples);
        EXPECT_EQ(measures.at(1).name, "given_back");
        return measures[1].value;
    };
    EXPECT_GT(given_back(true), 0.1);
    EXPECT_LT(given_back(false), given_back(true));
}

/// A gate that rates every entry of a head alike: 0, 1, 2 and 3 in the four heads that evict.
std::unique_ptr<Objective> plain_gate(const Backend& backend, const MemoryShape& shape) {
    auto gate = find_objective("gate").make(
        {.shape = shape, .backend = backend, .options = {}, .sidecar = nullptr});
    float next = 0;
    for (Parameter& p : gate->parameters()) {
        if (p.name.ends_with("gate_magnitude.weight")) std::ranges::fill(p.value, 0.0F);
        if (!p.name.ends_with("gate_magnitude.bias")) continue;
        for (float& x : p.value) x = next++;
    }
    return gate;
}

TEST(LatentTraining, AGateChoosesHeadByHead) {
    const MemoryShape shape = small_shape();
    const Backend backend(2);
    const auto gate = plain_gate(backend, shape);
    const EvictionWeights sidecar = written(find_objective("gate"), *gate);
    const ObjectiveInputs in = {
        .shape = shape, .backend = backend, .options = {}, .sidecar = &sidecar};
    const Example e = random_example(1);
    const auto chooser = make_chooser(in);
    // Of 4 heads x 20 rows half goes: all of the two heads rated least, but for 4 sinks each; the
    // rest of the 40 from the third. Ties: the earlier stays.
    const std::vector<HeadRows> gone = chooser->choose(e, 20, 0.5);
    ASSERT_EQ(gone.size(), 2U);  // layers that evict
    EXPECT_TRUE(gone[1][1].empty());
    EXPECT_EQ(gone[0][0].size() + gone[0][1].size() + gone[1][0].size(), 40U);
    EXPECT_EQ(gone[0][0].size(), 16U);
    EXPECT_EQ(gone[0][1].size(), 16U);
    EXPECT_EQ(gone[1][0], (std::vector<int32_t>{12, 13, 14, 15, 16, 17, 18, 19}));
    for (const HeadRows& layer : gone) {
        for (const auto& rows : layer) {
            for (const int32_t row : rows) EXPECT_GE(row, 4);
        }
    }
    // Another gate is another training.
    const auto other = find_objective("gate").make(
        {.shape = shape, .backend = backend, .options = {.seed = 7}, .sidecar = nullptr});
    const EvictionWeights others = written(find_objective("gate"), *other);
    EXPECT_NE(chooser->settings(),
              make_chooser({.shape = shape, .backend = backend, .options = {}, .sidecar = &others})
                  ->settings());
    // And the memory learns from what such a gate leaves.
    const auto latent = find_objective("latent").make(in);
    EXPECT_GT(latent->learn(std::vector<Block>{{.of = &e, .begin = 4, .n = 8}}), 0);
}

IndexerTrainingOptions unusual_indexer() {
    return {.n_head = 4,
            .d_head = 6,
            .activation = Activation::kSoftplus,
            .is_by_head = true,
            .n_recent = 5,
            .loss = IndexerLoss::kCuts};
}

TEST(IndexerTraining, WhatWasAskedForStandsInTheFile) {
    const MemoryShape shape = small_shape();
    const Backend backend(2);
    const ObjectiveKind& kind = find_objective("indexer");
    const auto objective = kind.make({.shape = shape,
                                      .backend = backend,
                                      .options = {.indexer = unusual_indexer()},
                                      .sidecar = nullptr});
    const auto usual =
        kind.make({.shape = shape, .backend = backend, .options = {}, .sidecar = nullptr});
    EXPECT_NE(objective->settings(), usual->settings());
    const Example e = random_example(3);
    const std::vector<Block> blocks = {{.of = &e, .begin = 4, .n = 8}};
    const std::vector<double> losses = losses_of(*objective, blocks, 40);
    EXPECT_LT(losses.back(), 0.8 * losses.front());
    // Another part is trained with it, and keeps what the file says.
    const BaseModel base = {.architecture = "llama", .fingerprint = "abc"};
    const testing::TemporaryFile file("", ".gguf");
    write_sidecar(file.path(), "", kind.part, *objective, shape, base);
    const EvictionWeights first(file.path(), backend, shape, base);
    const ObjectiveInputs in = {
        .shape = shape, .backend = backend, .options = {}, .sidecar = &first};
    const auto latent = find_objective("latent").make(in);
    EXPECT_GT(latent->learn(blocks), 0);
    write_sidecar(file.path(), file.path(), "memory", *latent, shape, base);
    const EvictionWeights both(file.path(), backend, shape, base);
    ASSERT_NE(both.indexer(), nullptr);
    EXPECT_EQ(both.indexer()->n_head, 4);
    EXPECT_EQ(both.indexer()->d_head, 6);
    EXPECT_EQ(both.indexer()->activation, Activation::kSoftplus);
    EXPECT_EQ(both.indexer()->n_group, 2);
    EXPECT_EQ(both.indexer()->n_recent, 5);
}

TEST(IndexerTraining, LogarithmsBeginAtTheirMeanAndFall) {
    const MemoryShape shape = small_shape();
    const Backend backend(2);
    const ObjectiveKind& kind = find_objective("indexer");
    const IndexerTrainingOptions options = {.is_by_head = true, .loss = IndexerLoss::kLogs};
    const auto objective = kind.make(
        {.shape = shape, .backend = backend, .options = {.indexer = options}, .sidecar = nullptr});
    Example e = random_example(3);
    e.cuts = {0.5F, 0.75F, 0.9F};
    const std::vector<const Example*> examples = {&e};
    objective->begin(examples);
    for (const Parameter& p : objective->parameters()) {
        if (!p.name.ends_with("indexer_bias")) continue;
        ASSERT_EQ(p.value.size(), 2U);
        EXPECT_NEAR(p.value[0], -1, 0.4);  // the mean logarithm of evenly spread numbers is -1
    }
    const std::vector<Block> blocks = {{.of = &e, .begin = 4, .n = 8}};
    const std::vector<double> losses = losses_of(*objective, blocks, 60);
    EXPECT_LT(losses.back(), 0.8 * losses.front());
    // How it shares stands in the file, and stays there when another part is trained.
    const BaseModel base = {.architecture = "llama", .fingerprint = "abc"};
    const testing::TemporaryFile file("", ".gguf");
    write_sidecar(file.path(), "", kind.part, *objective, shape, base);
    const auto latent = find_objective("latent").make(
        {.shape = shape, .backend = backend, .options = {}, .sidecar = nullptr});
    write_sidecar(file.path(), file.path(), "memory", *latent, shape, base);
    const EvictionWeights weights(file.path(), backend, shape, base);
    EXPECT_NE(weights.indexer()->layers[0].bias[0], 0);
    EXPECT_EQ(find_policy("indexer").usual_allocator(&weights), "global");
    // All heads of all layers compete: of 2 x 2 x 20 rows half go, not half of each head's.
    const auto chooser =
        make_chooser({.shape = shape, .backend = backend, .options = {}, .sidecar = &weights});
    const auto gone = chooser->choose(random_example(4), 20, 0.5);
    std::vector<size_t> counts;
    for (const HeadRows& layer : gone) {
        for (const auto& rows : layer) counts.push_back(rows.size());
    }
    ASSERT_EQ(counts.size(), 4U);
    EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), size_t{0}), 40U);
    EXPECT_NE(std::ranges::min(counts), std::ranges::max(counts));
    EXPECT_THROW((void)kind.make({.shape = shape,
                                  .backend = backend,
                                  .options = {.indexer = {.response = Response::kContinuation,
                                                          .loss = IndexerLoss::kLogs}},
                                  .sidecar = nullptr}),
                 Error);
}

TEST(IndexerTraining, ChoosesAsItRunsHeadByHead) {
    const MemoryShape shape = small_shape();
    const Backend backend(1);
    const auto objective =
        find_objective("indexer").make({.shape = shape,
                                        .backend = backend,
                                        .options = {.indexer = {.is_by_head = true, .n_recent = 5}},
                                        .sidecar = nullptr});
    const EvictionWeights weights = written(find_objective("indexer"), *objective);
    const auto chooser =
        make_chooser({.shape = shape, .backend = backend, .options = {}, .sidecar = &weights});
    const auto gone = chooser->choose(random_example(4), 20, 0.5);
    ASSERT_EQ(gone.size(), 2U);
    for (const HeadRows& layer : gone) {
        ASSERT_EQ(layer.size(), 2U);
        EXPECT_NE(layer[0], layer[1]);
        for (const auto& rows : layer) {
            EXPECT_EQ(rows.size(), 10U);
            EXPECT_GE(rows.front(), 4);
            EXPECT_LT(rows.back(), 15);
        }
    }
}

TEST(IndexerTraining, HeadsThatHaveNoEqualPartAreRefused) {
    const MemoryShape shape = small_shape();
    const Backend backend(1);
    for (const IndexerTrainingOptions& wrong :
         {IndexerTrainingOptions{.n_head = 3, .is_by_head = true},
          IndexerTrainingOptions{.d_head = 3}, IndexerTrainingOptions{.d_head = 129}}) {
        EXPECT_THROW((void)find_objective("indexer").make({.shape = shape,
                                                           .backend = backend,
                                                           .options = {.indexer = wrong},
                                                           .sidecar = nullptr}),
                     Error);
    }
    const auto too_recent =
        find_objective("indexer").make({.shape = shape,
                                        .backend = backend,
                                        .options = {.indexer = {.n_recent = kTokens}},
                                        .sidecar = nullptr});
    const Example e = random_example(4);
    EXPECT_THROW(too_recent->learn(std::vector<Block>{{.of = &e, .begin = 4, .n = 8}}), Error);
}

/// Values of all matrices: the paper counts neither norms nor single numbers.
int64_t values_of_matrices(Objective& objective) {
    int64_t n = 0;
    for (const Parameter& p : objective.parameters()) {
        if (p.shape[1] > 1) n += std::ssize(p.value);
    }
    return n;
}

/// Of Llama 3.1 8B, whose 32 layers are alike: one of them is made here.
TEST(WholeDocuments, HaveAsManyParametersAsThePaperSays) {
    constexpr int64_t kLayers = 32;
    const MemoryShape shape = {
        .n_layer = 1, .n_head = 32, .n_head_kv = 8, .d_head = 128, .windows = {}, .n_embd = 4096};
    const Backend backend(1);
    const auto indexer = find_objective("indexer").make(
        {.shape = shape, .backend = backend, .options = {}, .sidecar = nullptr});
    EXPECT_EQ(kLayers * values_of_matrices(*indexer), 19'922'944);
    // The paper's memory has as many features as a head has channels.
    const auto latent = find_objective("latent").make(
        {.shape = shape,
         .backend = backend,
         .options = {.n_feature = shape.d_head, .latent_form = LatentForm::kResidual},
         .sidecar = nullptr});
    EXPECT_EQ(kLayers * values_of_matrices(*latent), 524'288);
}

TEST(WholeDocuments, AModelOfWindowsHasNothingToTrain) {
    MemoryShape shape = small_shape();
    shape.windows = {8, 8, 8};
    const Backend backend(1);
    for (const char* name : {"indexer", "latent"}) {
        EXPECT_THROW((void)find_objective(name).make(
                         {.shape = shape, .backend = backend, .options = {}, .sidecar = nullptr}),
                     Error);
    }
}

}  // namespace
}  // namespace palimpsest
