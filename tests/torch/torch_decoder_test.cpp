// The decoder that is trained computes what the engine's does.

#include "train/torch/torch_decoder.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "support/golden.h"
#include "support/tiny_model.h"

namespace palimpsest {
namespace {

std::vector<float> logits_of(const TorchDecoder& decoder, const std::vector<TokenId>& tokens) {
    const torch::NoGradGuard no_grad;
    const auto ids =
        torch::tensor(std::vector<int64_t>(tokens.begin(), tokens.end())).view({1, -1});
    const auto states = decoder.states(decoder.embed(ids));
    const auto logits = decoder.logits(states[0]).contiguous();
    return {logits.data_ptr<float>(), logits.data_ptr<float>() + logits.numel()};
}

class TorchGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(TorchGolden, LogitsOfAllPositions) {
    REQUIRE_ORACLES();
    const auto folder = *oracle_folder / "families" / GetParam();
    const auto tokens =
        testing::read_json(folder / "golden.json")["tokens"].get<std::vector<TokenId>>();
    const std::vector<float> expected = testing::read_f32(folder / "logits.f32");
    const GgufFile file = GgufFile::open((folder / "model.gguf").string());
    EXPECT_LE(testing::max_difference(logits_of({file, 0, TorchMath::kF32}, tokens), expected),
              1e-4);
    // In bf16 as near as that is.
    const auto rounded = logits_of({file, 0, TorchMath::kBf16}, tokens);
    double sum = 0;
    double size = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
        sum += std::pow(static_cast<double>(rounded[i] - expected[i]), 2);
        size += std::pow(static_cast<double>(expected[i]), 2);
    }
    EXPECT_LE(std::sqrt(sum / size), 0.03);
}

INSTANTIATE_TEST_SUITE_P(Families, TorchGolden,
                         ::testing::Values("llama", "llama_rope3", "mistral", "qwen3"),
                         [](const auto& test) { return std::string(test.param); });

/// Encoder states against golden ones of latent context, both masks.
TEST(TorchDecoder, EncoderStatesAreTheGoldenOnes) {
    REQUIRE_ORACLES();
    const auto folder = *oracle_folder / "lclm";
    const GgufFile file = GgufFile::open((folder / "gguf" / "encoder.gguf").string());
    const TorchDecoder encoder(file, 0, TorchMath::kF32);
    for (const bool is_causal : {true, false}) {
        const auto golden = folder / "golden" / (is_causal ? "mlp" : "attn");
        const auto json = testing::read_json(golden / "golden.json");
        for (const auto& c : json["cases"]) {
            if (c["name"] != "exact_window_first") continue;
            const torch::NoGradGuard no_grad;
            const auto region = c["prompt"][0]["region"].get<std::vector<int64_t>>();
            const auto states =
                encoder.states(encoder.embed(torch::tensor(region).view({1, -1})), is_causal)[0]
                    .contiguous();
            const std::span<const float> own(states.data_ptr<float>(),
                                             static_cast<size_t>(states.numel()));
            const auto expected =
                testing::read_f32(golden / c["encoder_states"]["file"].get<std::string>());
            EXPECT_LE(testing::max_difference(own, expected), 1e-4);
        }
    }
}

TEST(TorchDecoder, WhatIsWrittenIsWhatWasLearnt) {
    const testing::TemporaryFile model = testing::tiny_model_file();
    const GgufFile file = GgufFile::open(model.path());
    const std::vector<TokenId> tokens = testing::tiny_tokens(20);
    for (const int64_t rank : {0, 4}) {
        torch::manual_seed(1);
        TorchDecoder decoder(file, 0, TorchMath::kF32);
        decoder.learn(rank);
        const std::vector<float> before = logits_of(decoder, tokens);
        {
            const torch::NoGradGuard no_grad;
            for (torch::Tensor t : decoder.parameters()) t.add_(0.01 * torch::randn_like(t));
        }
        const std::vector<float> after = logits_of(decoder, tokens);
        EXPECT_GT(testing::max_difference(before, after), 1e-3);
        const testing::TemporaryFile out("", ".gguf");
        decoder.write(file, "learnt", GGML_TYPE_F32, out.path());
        Backend backend(1);
        const LoadedModel loaded(out.path(), backend);
        EXPECT_EQ(loaded.config().name, "learnt");
        const KvCacheOptions options = {.n_ctx = 64, .entries = GGML_TYPE_F32};
        Session session(loaded.model(), backend,
                        make_memory("kv", backend, loaded.config().memory_shape(), options));
        EXPECT_LE(testing::max_difference(testing::all_logits(session, tokens), after), 1e-3);
    }
}

TEST(TorchDecoder, OnlyWhatIsActiveGetsGradients) {
    const testing::TemporaryFile model = testing::tiny_model_file();
    const GgufFile file = GgufFile::open(model.path());
    TorchDecoder decoder(file, 1, TorchMath::kF32);
    decoder.learn(2);
    EXPECT_EQ(decoder.config().n_layer, 1);
    decoder.activate(true);
    const auto ids = torch::tensor({1, 2, 3}).view({1, -1});
    decoder.states(decoder.embed(ids)).sum().backward();
    for (const torch::Tensor& t : decoder.parameters()) EXPECT_TRUE(t.grad().defined());
    decoder.activate(false);
    EXPECT_FALSE(decoder.states(decoder.embed(ids)).requires_grad());
}

TEST(TorchDecoder, OtherFamiliesAreRefused) {
    const testing::TemporaryFile gemma = testing::tiny_model_file({.architecture = "gemma3"});
    const GgufFile file = GgufFile::open(gemma.path());
    EXPECT_THROW(TorchDecoder(file, 0, TorchMath::kF32), Error);
    const testing::TemporaryFile llama = testing::tiny_model_file();
    const GgufFile small = GgufFile::open(llama.path());
    EXPECT_THROW(TorchDecoder(small, 9, TorchMath::kF32), Error);
}

}  // namespace
}  // namespace palimpsest
