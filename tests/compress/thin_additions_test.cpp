// Additions to a model and the model, merged into files that run.

#include "compress/convert/thin_additions.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "core/error.h"
#include "palimpsest/conversation.h"
#include "palimpsest/latent_context.h"
#include "support/latent_files.h"
#include "support/tiny_model.h"

namespace palimpsest {
namespace {

class ThinAdditions : public ::testing::Test {
 protected:
    ThinAdditions() { folder_.write("m.gguf", testing::speaking_model_bytes({.n_layer = 2})); }

    [[nodiscard]] std::string at(const char* name) const {
        return (std::filesystem::path(folder_.path()) / name).string();
    }
    Converted merge(const std::function<void(testing::GgufBuilder&)>& change = {},
                    const char* model = "m.gguf") {
        folder_.write("a.gguf", testing::tiny_additions_bytes(at("m.gguf"), 2, change));
        return merge_additions(at("a.gguf"), at(model), at("out"), {.type = "f32"});
    }
    void expect_refused(ErrorCode code, const std::string& part,
                        const std::function<void(testing::GgufBuilder&)>& change) {
        SCOPED_TRACE(part);
        try {
            merge(change);
            ADD_FAILURE() << "was taken";
        } catch (const Error& e) {
            EXPECT_EQ(e.code(), code) << e.what();
            EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
        }
    }

    testing::TemporaryFolder folder_;
};

std::span<const float> numbers(const GgufTensor& t) {
    return {reinterpret_cast<const float*>(t.data.data()), t.data.size() / sizeof(float)};
}

TEST_F(ThinAdditions, AreAddedToTheMatricesThatTheyAreFor) {
    const Converted made = merge();
    const GgufFile model = GgufFile::open(at("m.gguf"));
    const GgufFile additions = GgufFile::open(at("a.gguf"));
    const GgufFile decoder = GgufFile::open(made.decoder);
    ASSERT_EQ(decoder.tensors().size(), model.tensors().size());
    for (const GgufTensor& t : model.tensors()) {
        SCOPED_TRACE(t.name);
        const GgufTensor* merged = decoder.find_tensor(t.name);
        ASSERT_NE(merged, nullptr);
        const std::string stem = cat("decoder.", t.name.substr(0, t.name.rfind('.')));
        const GgufTensor* down = additions.find_tensor(stem + ".down");
        if (down == nullptr) {
            EXPECT_TRUE(std::ranges::equal(merged->data, t.data));
            continue;
        }
        const auto d = numbers(*down);
        const auto u = numbers(*additions.find_tensor(stem + ".up"));
        const auto n_in = static_cast<size_t>(t.shape[0]);
        const auto n_out = static_cast<size_t>(t.shape[1]);
        for (size_t i = 0; i < n_in * n_out; ++i) {
            const size_t in = i % n_in;
            const size_t out = i / n_in;
            const float wanted = numbers(t)[i] + u[out] * d[in] + u[n_out + out] * d[n_in + in];
            ASSERT_NEAR(numbers(*merged)[i], wanted, 1e-6F);
        }
    }
    EXPECT_EQ(GgufFile::open(made.encoder).integer("llama.block_count"), 1);
}

TEST_F(ThinAdditions, WhatIsMergedRuns) {
    const Converted made = merge();
    const Engine engine({.model = made.decoder, .threads = 1});
    const LatentContext latent(engine, {.adapter = made.adapter});
    Conversation talk(engine, {.regions = latent.regions()});
    const std::vector<TextPart> parts = {{"hello hello hello", true}, {"Repeat."}};
    EXPECT_GE(talk.ask(parts, {.max_tokens = 2}).run().n_generated, 1);
}

TEST_F(ThinAdditions, RefusesWhatDoesNotFit) {
    using Fields = testing::GgufBuilder;
    expect_refused(ErrorCode::kInvalidArgument, "no additions",
                   [](Fields& f) { f.set_text("general.architecture", "llama"); });
    expect_refused(ErrorCode::kInvalidArgument, "another model",
                   [](Fields& f) { f.set_text(kAdditionsModel, "0123456789abcdef"); });
    expect_refused(ErrorCode::kCorrupt, "encoder of 3 layers",
                   [](Fields& f) { f.set(kAdditionsLayers, uint32_t{3}); });
    expect_refused(ErrorCode::kCorrupt, "do not fit", [](Fields& f) {
        f.remove_tensor("decoder.blk.0.attn_q.up");
        f.add_f32("decoder.blk.0.attn_q.up", {63, 2});
    });
    expect_refused(ErrorCode::kCorrupt, "belong to matrices", [](Fields& f) {
        f.add_f32("decoder.blk.7.attn_q.up", {64, 2});
    });
    expect_refused(ErrorCode::kCorrupt, "belong to matrices",
                   [](Fields& f) { f.remove_tensor("encoder.blk.0.attn_q.down"); });
    expect_refused(ErrorCode::kCorrupt, "not a number", [](Fields& f) {
        std::string& data = f.tensor("decoder.blk.1.attn_k.up").data;
        data.replace(0, 4, testing::raw(std::nanf("")));
    });
}

TEST_F(ThinAdditions, OnesOfAnotherModelAreRefusedByName) {
    folder_.write("other.gguf", testing::speaking_model_bytes({.n_layer = 2, .seed = 9}));
    EXPECT_THROW(merge({}, "other.gguf"), Error);
}

}  // namespace
}  // namespace palimpsest
