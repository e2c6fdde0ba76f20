// Trainings of recurrent models: what is written runs with the same logits, banks and their weights
// included; a training that was stopped goes on as if it had not been; an arm learns.

#include "train/linear/linear_training.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "core/fingerprint.h"
#include "core/sha256.h"
#include "engine/runtime.h"
#include "support/task_files.h"
#include "support/tiny_model.h"
#include "train/torch/torch_recurrent.h"

extern "C" bool palimpsest_train_linear(const palimpsest::LinearTrainingOptions& options,
                                        const palimpsest::LinearTrainingHooks& hooks);

namespace palimpsest {
namespace {

namespace fs = std::filesystem;

struct Case {
    const char* base;
    const char* bank;
    int64_t n_key_head = 0;
};

class LinearTrainingTest : public ::testing::TestWithParam<Case> {
 protected:
    [[nodiscard]] std::string at(const std::string& name) const {
        return (fs::path(folder_.path()) / name).string();
    }
    [[nodiscard]] LinearTrainingOptions options(const std::string& out) const {
        LinearTrainingOptions o;
        o.shape = {.base = GetParam().base,
                   .n_layer = 2,
                   .n_embd = 16,
                   .n_head = 4,
                   .d_key = 4,
                   .d_value = 8,
                   .n_key_head = GetParam().n_key_head,
                   .n_ff = std::string(GetParam().base) == "mamba2" ? 0 : 24};
        const bool is_single = std::string(GetParam().bank) == "single";
        o.mixing.bank = {.name = GetParam().bank, .n_states = is_single ? 1 : 3};
        o.mixing.learns_weights = !is_single;
        if (std::string(GetParam().bank) == "dla") o.mixing.boundary_rate = 0.3;
        o.task = {.name = "recall", .length = 32, .n_examined = 8, .n_vocab = 32, .pairs = {4}};
        o.n_steps = 6;
        o.n_batch = 4;
        o.rate = 0.03;
        o.out = at(out);
        return o;
    }

    testing::TemporaryFolder folder_;
};

std::vector<float> engine_logits(const std::string& model, const std::string& bank,
                                 const std::vector<TokenId>& tokens) {
    Backend backend(1);
    const LoadedModel loaded(model, backend, reading_named("f32"));
    Runtime runtime(loaded, backend, 7);
    MemoryChoice choice;
    choice.bank = bank;
    choice.entries = "f32";
    const auto session = runtime.make_session(runtime.make_memory(runtime.plan(choice)));
    return testing::all_logits(*session, tokens);
}

TEST_P(LinearTrainingTest, WhatIsWrittenRunsWithTheSameLogits) {
    const LinearTrainingOptions o = options("made");
    ASSERT_TRUE(palimpsest_train_linear(o, {}));
    const GgufFile file = GgufFile::open(at("made/model.gguf"));
    TorchRecurrent model(file, o.mixing);
    const std::string read_out = at("made/read-out.gguf");
    const bool has_bank = fs::exists(read_out);
    EXPECT_EQ(has_bank, o.mixing.learns_weights);
    if (has_bank) {
        // Weights that a few steps do not reach, so that it shows if they are taken for others.
        GgufWriter changed;
        model.learn(false);
        const torch::NoGradGuard no_grad;
        torch::manual_seed(5);
        for (torch::Tensor t : model.parameters()) {
            if (t.dim() == 2 && t.size(0) == 12) t.add_(torch::randn_like(t));
        }
        model.set_threshold(0, 1.1F);
        changed.set_text("general.architecture", kReadOutArchitecture);
        changed.set_text(kReadOutModel, model_fingerprint(file));
        model.write_read_out(changed);
        changed.write(read_out);
    }
    std::vector<TokenId> tokens;
    std::vector<int64_t> ids;
    for (int64_t t = 0; t < 25; ++t) ids.push_back((t * t * 5 + 3 * t + 1) % 32);
    tokens.assign(ids.begin(), ids.end());
    const torch::NoGradGuard no_grad;
    const torch::Tensor logits =
        model.logits(model.states(torch::tensor(ids).view({1, -1}), {})[0]).contiguous();
    const std::vector<float> own(logits.data_ptr<float>(),
                                 logits.data_ptr<float>() + logits.numel());
    const auto theirs = engine_logits(at("made/model.gguf"), has_bank ? read_out : "", tokens);
    EXPECT_LE(testing::max_difference(own, theirs), 2e-4);
    if (has_bank) {
        const auto without = engine_logits(at("made/model.gguf"), "", tokens);
        EXPECT_GT(testing::max_difference(without, theirs), 1e-2);
    }
}

TEST_P(LinearTrainingTest, GoesOnWhereItWasStopped) {
    const LinearTrainingOptions whole = options("whole");
    ASSERT_TRUE(palimpsest_train_linear(whole, {}));
    LinearTrainingOptions parts = options("parts");
    EXPECT_FALSE(palimpsest_train_linear(
        parts, {.on_step = [](const LinearStepReport& r) { return r.step < 2; }}));
    EXPECT_FALSE(fs::exists(at("parts/model.gguf")));
    parts.resume = true;
    int64_t first = 0;
    ASSERT_TRUE(palimpsest_train_linear(parts, {.on_step = [&](const LinearStepReport& r) {
                                            if (first == 0) first = r.step;
                                            return true;
                                        }}));
    EXPECT_EQ(first, 3);
    for (const char* file : {"model.gguf", "read-out.gguf"}) {
        if (!fs::exists(at(cat("whole/", file)))) continue;
        EXPECT_EQ(sha256_of_file(at(cat("parts/", file))), sha256_of_file(at(cat("whole/", file))))
            << file;
    }
    parts.seed = 9;
    EXPECT_THROW(palimpsest_train_linear(parts, {}), Error);
}

INSTANTIATE_TEST_SUITE_P(
    Bases, LinearTrainingTest,
    ::testing::Values(Case{"gated-delta", "single"}, Case{"gated-delta", "dla"},
                      Case{"gated-delta", "log-linear"}, Case{"gated-delta", "dla", 2},
                      Case{"mamba2", "single"}, Case{"mamba2", "dla"}, Case{"mamba2", "ward", 2},
                      Case{"mamba2", "equal"}),
    [](const auto& test) {
        std::string name = cat(test.param.base, "_", test.param.bank, "_", test.param.n_key_head);
        std::ranges::replace(name, '-', '_');
        return name;
    });

std::vector<float> torch_logits(const TorchRecurrent& model, const std::vector<TokenId>& tokens) {
    const torch::NoGradGuard no_grad;
    const torch::Tensor ids =
        torch::tensor(std::vector<int64_t>(tokens.begin(), tokens.end())).view({1, -1});
    const torch::Tensor logits = model.logits(model.states(ids, {})[0]).contiguous();
    return {logits.data_ptr<float>(), logits.data_ptr<float>() + logits.numel()};
}

/// Models as users have them: fewer keys than states, and layers that attend.
TEST(LinearTraining, AModelFromAFileIsTheEnginesOwn) {
    using testing::TinyModelOptions;
    for (const TinyModelOptions& o :
         {TinyModelOptions{.architecture = "mamba2"},
          TinyModelOptions{.architecture = "qwen35", .n_layer = 4},
          TinyModelOptions{.architecture = "qwen35", .n_layer = 3, .window_period = 3}}) {
        SCOPED_TRACE(cat(o.architecture, " ", o.n_layer));
        const testing::TemporaryFile file = testing::tiny_model_file(o);
        LinearMixing mixing;
        mixing.bank = {.name = "dla", .n_states = 4};
        mixing.learns_weights = true;
        const TorchRecurrent model(GgufFile::open(file.path()), mixing);
        const auto tokens = testing::tiny_tokens(40);
        const auto own = torch_logits(model, tokens);
        EXPECT_LE(testing::max_difference(own, engine_logits(file.path(), "", tokens)), 5e-4);
        // Written again, changed, it is what was changed.
        const testing::TemporaryFolder folder;
        LinearTrainingOptions t;
        t.model = file.path();
        t.mixing = mixing;
        t.task = {.name = "recall", .length = 16, .n_examined = 4, .n_vocab = 40, .pairs = {4}};
        t.n_steps = 3;
        t.n_batch = 2;
        t.rate = 0.02;
        t.out = folder.path();
        ASSERT_TRUE(palimpsest_train_linear(t, {}));
        const TorchRecurrent learnt(GgufFile::open(folder.path() + "/model.gguf"), {});
        const auto after = torch_logits(learnt, tokens);
        EXPECT_GT(testing::max_difference(own, after), 1e-2);
        EXPECT_LE(testing::max_difference(after,
                                          engine_logits(folder.path() + "/model.gguf", "", tokens)),
                  5e-4);
        EXPECT_NO_THROW(
            engine_logits(folder.path() + "/model.gguf", folder.path() + "/read-out.gguf", tokens));
    }
}

TEST(LinearTraining, WeightsAloneAreLearntOfAModelThatIsThere) {
    const testing::TemporaryFolder folder;
    LinearTrainingOptions o;
    o.shape = {.n_embd = 16, .d_key = 4, .d_value = 4, .n_ff = 16};
    o.task = {.name = "recall", .length = 32, .n_examined = 8, .n_vocab = 32, .pairs = {4}};
    o.n_steps = 3;
    o.n_batch = 2;
    o.out = folder.path() + "/base";
    ASSERT_TRUE(palimpsest_train_linear(o, {}));
    o.model = folder.path() + "/base/model.gguf";
    o.out = folder.path() + "/bank";
    o.mixing.bank = {.name = "dla", .n_states = 4};
    o.only_weights = true;
    EXPECT_THROW(palimpsest_train_linear(o, {}), Error);  // every state counts 1
    o.mixing.learns_weights = true;
    int64_t n = 0;
    double before = 0;
    ASSERT_TRUE(palimpsest_train_linear(
        o, {.on_step =
                [&](const LinearStepReport& r) {
                    if (r.step == 1) before = r.loss;
                    return true;
                },
            .on_model = [&](const LinearModelReport& m) { n = m.n_parameters; }}));
    EXPECT_EQ(n, 2 * (2 * 4 * 16 + 2 * 4));
    EXPECT_GT(before, 0);
    // The model itself stays where it is, and the bank is one of it.
    EXPECT_FALSE(fs::exists(folder.path() + "/bank/model.gguf"));
    const std::vector<TokenId> tokens = {1, 17, 2, 18, 3, 19, 0, 1, 0, 2};
    EXPECT_EQ(engine_logits(o.model, folder.path() + "/bank/read-out.gguf", tokens).size(),
              tokens.size() * 32);
}

TEST(LinearTraining, ALittleIsLearnt) {
    LinearTrainingOptions o;
    o.shape = {.n_layer = 1,
               .n_embd = 32,
               .n_head = 1,
               .d_key = 16,
               .d_value = 16,
               .n_ff = 32,
               .fastest_decay = 1};
    o.mixing.bank = {.name = "dla", .n_states = 4};
    o.mixing.learns_weights = true;
    o.mixing.boundary_rate = 0.25;
    o.task = {.name = "recall", .length = 16, .n_examined = 64, .n_vocab = 8, .pairs = {2}};
    o.n_steps = 200;
    o.n_batch = 32;
    o.rate = 1e-2;
    std::vector<LinearScore> scores;
    double first = 0;
    double last = 0;
    std::vector<double> rates;
    ASSERT_TRUE(palimpsest_train_linear(o, {.on_step = [&](const LinearStepReport& r) {
                                            if (r.step == 1) first = r.loss;
                                            last = r.loss;
                                            rates = r.boundary_rates;
                                            if (!r.scores.empty()) scores = r.scores;
                                            return true;
                                        }}));
    EXPECT_LT(last, 0.7 * first);
    ASSERT_EQ(scores.size(), 1U);
    EXPECT_EQ(scores[0].n, 128);
    EXPECT_EQ(scores[0].n_sequences, 64);
    EXPECT_NEAR(rates.at(0), 0.25, 0.15);
}

TEST(LinearTraining, WhatCannotBeIsRefused) {
    LinearTrainingOptions o;
    o.task = {.name = "recall", .length = 32, .n_vocab = 32, .pairs = {4}};
    o.shape.n_ff = 0;
    EXPECT_THROW(palimpsest_train_linear(o, {}), Error);
    o.shape.base = "rwkv";
    EXPECT_THROW(palimpsest_train_linear(o, {}), Error);
    const testing::TemporaryFile attends = testing::tiny_model_file();
    o.model = attends.path();
    EXPECT_THROW(palimpsest_train_linear(o, {}), Error);
}

}  // namespace
}  // namespace palimpsest
