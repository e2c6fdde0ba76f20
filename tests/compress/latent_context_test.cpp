// Latent context in conversations: under every memory, in reports, from a cache; and pairs of files
// that do not belong together.

#include "palimpsest/latent_context.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "compress/latent_encoder.h"
#include "compress/latent_regions.h"
#include "core/error.h"
#include "engine/runtime.h"
#include "palimpsest/conversation.h"
#include "support/golden.h"
#include "support/latent_files.h"
#include "support/task_files.h"
#include "support/tiny_model.h"

namespace palimpsest {
namespace {

namespace fs = std::filesystem;

/// 60 short sentences.
std::string document() {
    std::string text;
    for (int i = 0; i < 60; ++i) text += cat("Rule ", i, ": pay ", i * i % 97, ". ");
    return text;
}

class LatentContextTest : public ::testing::Test {
 protected:
    LatentContextTest() {
        folder_.write("m.gguf", testing::speaking_model_bytes({.n_layer = 2, .n_ctx = 2048}));
        folder_.write("encoder.gguf",
                      testing::speaking_model_bytes({.n_layer = 1, .n_ctx = 512, .seed = 7}));
        adapter(testing::tiny_adapter());
    }
    void adapter(const testing::GgufBuilder& file, const std::string& name = "adapter.gguf") {
        folder_.write(name, file.bytes());
    }
    [[nodiscard]] std::string at(const std::string& name) const {
        return (fs::path(folder_.path()) / name).string();
    }
    [[nodiscard]] Engine engine() const {
        return Engine({.model = at("m.gguf"), .threads = 2, .chunk = 128});
    }

    testing::TemporaryFolder folder_;
};

std::string answer(Conversation& talk) {
    const std::vector<TextPart> parts = {{document(), true}, {"What is rule 7?"}};
    return talk.ask(parts, {.max_tokens = 8}).run().text;
}

TEST_F(LatentContextTest, ADocumentTakesAFractionOfItsTokens) {
    const Engine e = engine();
    const LatentContext latent(e, {.adapter = at("adapter.gguf")});
    Conversation whole(e);
    Conversation compressed(e, {.regions = latent.regions()});
    (void)answer(whole);
    (void)answer(compressed);
    const int64_t n = std::ssize(e.runtime().loaded().require_tokenizer().encode(document()));
    EXPECT_LT(compressed.position(), whole.position() - n / 2);
    EXPECT_GE(compressed.position(), whole.position() - n + n / 4);
    EXPECT_GT(latent.usage().tokens_encoded, n);  // and the line breaks around it
    EXPECT_EQ(latent.usage().tokens_found, 0);
    EXPECT_GT(latent.usage().encoder_bytes, 0U);
}

TEST_F(LatentContextTest, TheReportKnowsTheTextOfEveryLatent) {
    const Engine e = engine();
    const LatentContext latent(e, {.adapter = at("adapter.gguf")});
    Conversation talk(
        e, {.memory = {.budget = "160", .policy = "window"}, .regions = latent.regions()});
    (void)answer(talk);
    const auto report = nlohmann::json::parse(talk.report_json());
    std::string text;
    bool is_any_dropped = false;
    for (const auto& span : report["spans"]) {
        text += span["text"].get<std::string>();
        is_any_dropped = is_any_dropped || span["state"] == "dropped";
    }
    EXPECT_NE(text.find(document().substr(0, 60)), std::string::npos);
    EXPECT_NE(text.find("Rule 59: pay"), std::string::npos);
    EXPECT_NE(text.find("What is rule 7?"), std::string::npos);
    EXPECT_TRUE(is_any_dropped);
}

TEST_F(LatentContextTest, GoesWithEveryPolicyAndResidue) {
    const Engine e = engine();
    const LatentContext latent(e, {.adapter = at("adapter.gguf")});
    for (const char* policy : {"window", "random", "key-norm", "key-diff", "lag-kv", "snap-kv",
                               "tova", "h2o", "expected-attention", "chunk-kv", "cur", "leverage",
                               "kvzip", "leverage/adaptive+merge", "window+centroids"}) {
        SCOPED_TRACE(policy);
        Conversation talk(
            e, {.memory = {.budget = "160", .policy = policy}, .regions = latent.regions()});
        (void)answer(talk);
        for (const auto& layer : talk.report().layers) {
            for (const int64_t held : layer.held) EXPECT_LE(held, 200);
        }
        EXPECT_GT(talk.position(), 150);
    }
}

TEST_F(LatentContextTest, EveryKindOfAdapterRuns) {
    const Engine e = engine();
    const std::vector<testing::TinyAdapterOptions> kinds = {
        {.ratio = 16},
        {.overlap = 8},
        {.overlap = 8, .mask = "bidirectional"},
        {.pooling = "concat"},
        {.pooling = "eos"},
        {.pooling = "eos", .mask = "bidirectional"},
        {.type = "attn_mlp", .n_layer = 1},
        {.pooling = "concat", .type = "mlp_attn", .n_layer = 2},
        {.has_tokens = true}};
    for (size_t i = 0; i < kinds.size(); ++i) {
        SCOPED_TRACE(i);
        adapter(testing::tiny_adapter(kinds[i]));
        const LatentContext latent(e, {.adapter = at("adapter.gguf")});
        Conversation talk(e, {.regions = latent.regions()});
        (void)answer(talk);
        EXPECT_EQ(latent.ratio(), kinds[i].ratio);
    }
}

TEST_F(LatentContextTest, ASecondTurnBringsItsOwnDocument) {
    const Engine e = engine();
    const LatentContext latent(e, {.adapter = at("adapter.gguf")});
    Conversation talk(e, {.regions = latent.regions()});
    (void)answer(talk);
    const int64_t before = talk.position();
    (void)answer(talk);
    EXPECT_GT(talk.position(), before + 100);
    EXPECT_LT(talk.position(), before + 300);
    const std::string path = at("saved");
    talk.save(path);
    Conversation again(e, {.regions = latent.regions()});
    again.load(path);
    EXPECT_EQ(again.position(), talk.position());
}

TEST_F(LatentContextTest, WhatMustBeKeptAndWhatIsBlankStaysText) {
    const Engine e = engine();
    const LatentContext latent(e, {.adapter = at("adapter.gguf")});
    Conversation talk(e, {.regions = latent.regions()});
    const std::vector<TextPart> parts = {{document(), true, true}, {"  \n", true}, {"Well?"}};
    (void)talk.ask(parts, {.max_tokens = 1}).run();
    EXPECT_EQ(latent.usage().tokens_encoded, 0);
}

TEST_F(LatentContextTest, LatentsComeFromTheCacheTheSecondTime) {
    const Engine e = engine();
    std::vector<std::string> answers;
    for (int i = 0; i < 2; ++i) {
        const LatentContext latent(e, {.adapter = at("adapter.gguf"), .cache = at("cache")});
        Conversation talk(e, {.regions = latent.regions()});
        answers.push_back(answer(talk));
        EXPECT_GT(latent.usage().cache_bytes, 0U);
        EXPECT_EQ(latent.usage().tokens_encoded == 0, i == 1);
        EXPECT_EQ(latent.usage().tokens_found == 0, i == 0);
    }
    EXPECT_EQ(answers[0], answers[1]);
    // Damaged ones are made anew.
    for (const auto& entry : fs::directory_iterator(at("cache"))) fs::resize_file(entry.path(), 9);
    const LatentContext latent(e, {.adapter = at("adapter.gguf"), .cache = at("cache")});
    Conversation talk(e, {.regions = latent.regions()});
    EXPECT_EQ(answer(talk), answers[0]);
    EXPECT_GT(latent.usage().tokens_encoded, 0);
}

TEST_F(LatentContextTest, TagsInATextAreText) {
    // The encoder's and the decoder's control tokens, spelled out in a document and a question.
    const Engine e = engine();
    adapter(testing::tiny_adapter({.has_tokens = true}));
    const LatentContext latent(e, {.adapter = at("adapter.gguf")});
    Conversation talk(e, {.regions = latent.regions()});
    const std::vector<TextPart> parts = {{"a <|im_end|> b <|im_start|>", true},
                                         {"hell <|im_end|>"}};
    (void)talk.ask(parts, {.max_tokens = 1}).run();
    const auto ids = talk.session().tokens().ids();
    // <|im_end|> as the template writes it, once; none from the texts.
    EXPECT_LE(std::ranges::count(ids, 261), 2);
    const Tokenizer& t = latent.latent_regions(true)->encoder().model().require_tokenizer();
    const auto tokens = t.encode("a <|im_end|> b");
    EXPECT_EQ(std::ranges::count(tokens, 261), 0);
}

TEST_F(LatentContextTest, ALongDocumentIsRefusedOnlyByTheDecodersContext) {
    const Engine e = engine();
    const LatentContext latent(e, {.adapter = at("adapter.gguf")});
    std::string text;
    for (int i = 0; i < 12; ++i) text += document();
    const std::vector<TextPart> parts = {{text, true}, {"Well?"}};
    Conversation talk(e, {.regions = latent.regions()});
    try {
        (void)talk.ask(parts, {.max_tokens = 1}).run();
        ADD_FAILURE() << "it was read";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kExhausted);
    }
    EXPECT_EQ(latent.usage().tokens_encoded, 0);  // before anything was encoded in vain
    Conversation bounded(
        e, {.memory = {.budget = "160", .policy = "window"}, .regions = latent.regions()});
    (void)bounded.ask(parts, {.max_tokens = 1}).run();
    EXPECT_GT(bounded.position(), 2048);
}

struct Bad {
    const char* name;
    ErrorCode code;
    const char* says;
    std::function<void(testing::GgufBuilder&)> spoil;
};

std::vector<Bad> bad_adapters() {
    using enum ErrorCode;
    using F = testing::GgufBuilder;
    return {
        {"no_adapter", kCorrupt, "is no adapter",
         [](F& f) { f.set_text("general.architecture", "llama"); }},
        {"newer", kUnsupported, "version 2", [](F& f) { f.set("lclm.version", uint32_t{2}); }},
        {"ratio_0", kCorrupt, "compression_ratio",
         [](F& f) { f.set("lclm.compression_ratio", uint32_t{0}); }},
        {"ratio_negative", kCorrupt, "compression_ratio",
         [](F& f) { f.set("lclm.compression_ratio", int32_t{-4}); }},
        {"ratio_that_does_not_divide", kCorrupt, "no multiple",
         [](F& f) { f.set("lclm.compression_ratio", uint32_t{5}); }},
        {"window_huge", kCorrupt, "window", [](F& f) { f.set("lclm.window", 0x7fffffffU); }},
        {"window_longer_than_the_encoder", kInvalidArgument, "trained for 512",
         [](F& f) { f.set("lclm.window", uint32_t{1024}); }},
        {"pooling_unknown", kUnsupported, "'max'", [](F& f) { f.set_text("lclm.pooling", "max"); }},
        {"mask_unknown", kUnsupported, "'sideways'",
         [](F& f) { f.set_text("lclm.mask", "sideways"); }},
        {"kind_unknown", kUnsupported, "'lstm'",
         [](F& f) { f.set_text("lclm.adapter_type", "lstm"); }},
        {"layers_of_an_mlp", kCorrupt, "1 layers",
         [](F& f) { f.set("lclm.adapter_layers", uint32_t{1}); }},
        {"no_window", kNotFound, "lclm.window", [](F& f) { f.remove("lclm.window"); }},
        {"encoder_width", kCorrupt, "shape", [](F& f) { f.set("lclm.encoder_dim", uint32_t{64}); }},
        {"decoder_width", kCorrupt, "shape", [](F& f) { f.set("lclm.decoder_dim", uint32_t{64}); }},
        {"no_tags", kNotFound, "lclm.tag.start", [](F& f) { f.remove_tensor("lclm.tag.start"); }},
        {"no_matrix", kNotFound, "fc2", [](F& f) { f.remove_tensor("lclm.adapter.fc2.weight"); }},
        {"not_a_number", kCorrupt, "not a number",
         [](F& f) { f.tensor("lclm.adapter.fc1.weight").data.replace(0, 4, "\xff\xff\xff\x7f"); }},
        {"tag_not_a_number", kCorrupt, "not a number",
         [](F& f) { f.tensor("lclm.tag.end").data.replace(0, 4, "\xff\xff\xff\x7f"); }},
        {"tag_beyond_the_vocabulary", kInvalidArgument, "token 4000",
         [](F& f) {
             f.set("lclm.token.start", uint32_t{4000}).set("lclm.token.end", uint32_t{257});
         }},
        {"one_tag_only", kCorrupt, "one of the tags",
         [](F& f) { f.set("lclm.token.start", uint32_t{256}); }},
        {"other_encoder", kInvalidArgument, "another encoder",
         [](F& f) { f.set_text("lclm.encoder.fingerprint", "0123456789abcdef"); }},
        {"other_decoder", kInvalidArgument, "another decoder",
         [](F& f) { f.set_text("lclm.decoder.sha256", std::string(64, 'a')); }},
    };
}

TEST_F(LatentContextTest, BadAdaptersAreRefusedInWords) {
    const Engine e = engine();
    for (const Bad& bad : bad_adapters()) {
        SCOPED_TRACE(bad.name);
        testing::GgufBuilder file = testing::tiny_adapter();
        bad.spoil(file);
        adapter(file);
        try {
            const LatentContext latent(e, {.adapter = at("adapter.gguf")});
            ADD_FAILURE() << "it was taken";
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), bad.code) << error.what();
            EXPECT_NE(std::string(error.what()).find(bad.says), std::string::npos) << error.what();
        }
    }
}

TEST_F(LatentContextTest, AFoldersAdapterIsChosenByItsRatio) {
    const Engine e = engine();
    adapter(testing::tiny_adapter({.ratio = 16}), "adapter-16.gguf");
    const auto open = [&](int64_t ratio) {
        return LatentContext(e, {.adapter = folder_.path(), .ratio = ratio}).adapter_path();
    };
    EXPECT_EQ(open(4), at("adapter.gguf"));
    EXPECT_EQ(open(16), at("adapter-16.gguf"));
    for (const int64_t ratio : {0, 8}) EXPECT_THROW((void)open(ratio), Error) << ratio;
    EXPECT_THROW(LatentContext(e, {.adapter = at("adapter.gguf"), .ratio = 8}), Error);
    fs::remove(at("encoder.gguf"));
    EXPECT_THROW((void)open(4), Error);
}

}  // namespace
}  // namespace palimpsest
