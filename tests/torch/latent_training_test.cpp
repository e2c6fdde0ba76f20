// A training of latent context: it learns, goes on exactly where it was stopped, and what it writes
// runs.

#include "train/latent_context/latent_training.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "compress/convert/thin_additions.h"
#include "core/error.h"
#include "core/sha256.h"
#include "palimpsest/conversation.h"
#include "palimpsest/latent_context.h"
#include "support/task_files.h"
#include "support/tiny_model.h"

extern "C" bool palimpsest_train_latent_context(const palimpsest::LatentTrainingOptions& options,
                                                const palimpsest::LatentTrainingHooks& hooks);

namespace palimpsest {
namespace {

namespace fs = std::filesystem;

class LatentTrainingTest : public ::testing::Test {
 protected:
    LatentTrainingTest() {
        folder_.write("m.gguf", testing::speaking_model_bytes({.n_layer = 2, .n_ctx = 512}));
        std::string text;
        for (int i = 0; i < 60; ++i) text += cat("Rule ", i, ": hello, pay ", i * i % 97, ". ");
        std::string lines;
        for (int i = 0; i < 4; ++i) lines += cat("{\"text\": \"", i, text, "\"}\n");
        folder_.write("texts.jsonl", lines);
    }
    [[nodiscard]] std::string at(const std::string& name) const {
        return (fs::path(folder_.path()) / name).string();
    }
    [[nodiscard]] LatentTrainingOptions options(const std::string& out) const {
        LatentTrainingOptions o;
        o.model = at("m.gguf");
        o.documents = {at("texts.jsonl")};
        o.out = at(out);
        o.stages = {{"pack", 3}, {"all", 3}};
        o.n_source = 16;
        o.n_target = 8;
        o.n_batch = 2;
        o.n_encoder_layers = 1;
        o.n_examined = 2;
        o.is_f32 = true;
        o.type = "f32";
        return o;
    }

    testing::TemporaryFolder folder_;
};

TEST_F(LatentTrainingTest, AdditionsAndTheModelMakeTheSameFiles) {
    LatentTrainingOptions o = options("made");
    o.encoder_rank = o.decoder_rank = 4;
    EXPECT_TRUE(palimpsest_train_latent_context(o, {}));
    merge_additions(at("made/additions.gguf"), at("m.gguf"), at("merged"), {.type = "f32"});
    for (const char* part : {"encoder.gguf", "decoder.gguf"}) {
        const GgufFile a = GgufFile::open(at(cat("made/", part)));
        const GgufFile b = GgufFile::open(at(cat("merged/", part)));
        ASSERT_EQ(a.tensors().size(), b.tensors().size());
        for (const GgufTensor& t : a.tensors()) {
            SCOPED_TRACE(t.name);
            const auto* const merged = b.find_tensor(t.name);
            ASSERT_NE(merged, nullptr);
            const auto values = [](const GgufTensor& of) {
                return std::span(reinterpret_cast<const float*>(of.data.data()),
                                 of.data.size() / sizeof(float));
            };
            // Additions are stored in 8 bits.
            EXPECT_LT(testing::max_difference(values(t), values(*merged)), 2e-3);
        }
    }
    // Another training goes on from them.
    LatentTrainingOptions next = options("next");
    next.encoder_rank = next.decoder_rank = 4;
    next.start = at("made/additions.gguf");
    next.rate_scale = 1e-9;
    EXPECT_TRUE(palimpsest_train_latent_context(next, {}));
    const GgufFile first = GgufFile::open(at("made/additions.gguf"));
    const GgufFile second = GgufFile::open(at("next/additions.gguf"));
    EXPECT_GT(*second.integer("lclm.additions.source_tokens"),
              *first.integer("lclm.additions.source_tokens"));
    const char* const one = "decoder.blk.0.attn_q.up";
    EXPECT_TRUE(std::ranges::equal(first.find_tensor(one)->data, second.find_tensor(one)->data));
    next.decoder_rank = 2;
    EXPECT_THROW(palimpsest_train_latent_context(next, {}), Error);
}

TEST_F(LatentTrainingTest, LearnsAndItsFilesRun) {
    for (const auto& [pooling, rank] : {std::pair{"concat", 0}, {"mean", 0}, {"concat", 4}}) {
        SCOPED_TRACE(cat(pooling, " ", rank));
        LatentTrainingOptions o = options("made");
        o.pooling = pooling;
        o.encoder_rank = o.decoder_rank = rank;
        o.stages = {{"pack", 60}, {"adapter", 5}, {"encoder", 5}, {"all", 5}, {"answers", 5, 3}};
        std::vector<double> losses;
        size_t n_examined = 0;
        EXPECT_TRUE(palimpsest_train_latent_context(o, {.on_step = [&](const LatentStepReport& r) {
                                                        losses.push_back(r.loss);
                                                        n_examined = r.held_out.size();
                                                        return true;
                                                    }}));
        ASSERT_EQ(losses.size(), 80U);
        EXPECT_LT(losses[59], losses[0] - 0.5);
        EXPECT_EQ(n_examined, 4U);  // three tasks, and facts in documents of three windows
        const Engine engine({.model = at("made/decoder.gguf"), .threads = 1});
        const LatentContext latent(engine, {.adapter = at("made/adapter.gguf")});
        Conversation talk(engine, {.regions = latent.regions()});
        const std::vector<TextPart> parts = {{"hello hello hello", true}, {"Repeat."}};
        EXPECT_EQ(talk.ask(parts, {.max_tokens = 2}).run().n_generated, 2);
    }
}

TEST_F(LatentTrainingTest, AStoppedOneGoesOnExactly) {
    EXPECT_TRUE(palimpsest_train_latent_context(options("whole"), {}));
    LatentTrainingOptions o = options("parts");
    for (int64_t stop : {2, 4}) {
        EXPECT_FALSE(palimpsest_train_latent_context(
            o, {.on_step = [&](const LatentStepReport& r) { return r.step < stop; }}));
        o.resume = true;
    }
    EXPECT_TRUE(palimpsest_train_latent_context(o, {}));
    for (const char* file : {"adapter.gguf", "encoder.gguf", "decoder.gguf"}) {
        EXPECT_EQ(sha256_of_file(at(cat("whole/", file))), sha256_of_file(at(cat("parts/", file))))
            << file;
    }
    // The last stage may become longer.
    LatentTrainingOptions longer = o;
    longer.stages.back().n_steps = 4;
    int64_t n_more = 0;
    EXPECT_TRUE(palimpsest_train_latent_context(
        longer, {.on_step = [&](const LatentStepReport& r) { return ++n_more, r.n_steps == 7; }}));
    EXPECT_EQ(n_more, 1);
    // Other settings are not gone on with; a damaged checkpoint is made anew.
    o.seed = 2;
    EXPECT_THROW(palimpsest_train_latent_context(o, {}), Error);
    fs::resize_file(at("parts/training.checkpoint"), 100);
    std::string noted;
    EXPECT_TRUE(palimpsest_train_latent_context(
        o, {.on_note = [&](const std::string& text) { noted = text; }}));
    EXPECT_NE(noted.find("begins anew"), std::string::npos);
}

TEST_F(LatentTrainingTest, WhatCannotWorkIsSaidFirst) {
    const auto refused = [&](const std::function<void(LatentTrainingOptions&)>& spoil) {
        LatentTrainingOptions o = options("none");
        spoil(o);
        EXPECT_THROW(palimpsest_train_latent_context(o, {}), Error);
    };
    refused([](auto& o) { o.n_source = 18; });
    refused([](auto& o) { o.stages.clear(); });
    refused([](auto& o) { o.stages = {{"sleep", 3}}; });
    refused([](auto& o) { o.pooling = "eos"; });
    refused([](auto& o) { o.n_encoder_layers = 3; });
    refused([&](auto& o) { o.documents = {at("m.gguf")}; });
    refused([&](auto& o) { o.model = at("texts.jsonl"); });
    EXPECT_FALSE(fs::exists(at("none/adapter.gguf")));
}

}  // namespace
}  // namespace palimpsest
