// The quality benchmark over latents: beside the same model over text, in less memory.

#include <gtest/gtest.h>

#include <cmath>

#include "bench/quality/quality.h"
#include "core/error.h"
#include "engine/memory_choice.h"
#include "model/load.h"
#include "support/latent_files.h"
#include "support/task_files.h"
#include "support/tiny_model.h"

namespace palimpsest {
namespace {

class LatentQuality : public ::testing::Test {
 protected:
    LatentQuality() {
        const std::string model =
            folder_.write("m.gguf", testing::speaking_model_bytes({.n_layer = 2, .n_ctx = 2048}));
        std::string text;
        for (int i = 0; i < 400; ++i) text += cat("hello ", i * 7 % 13, " hello. ");
        options.sources.text = folder_.write("text.txt", text);
        backend = std::make_unique<Backend>(1);
        loaded = std::make_unique<LoadedModel>(model, *backend);
        options.tasks = find_tasks(std::vector<std::string>{"text"});
        options.lengths = {400};
        options.n_samples = 2;
        options.model_name = "test";
        options.memories = parse_memory_specs({"key-diff"}, nullptr);
        options.streaming = {{.kind = Budget::Kind::kEntries, .count = 32, .share = 0}};
        options.one_shot = {{.kind = Budget::Kind::kEvicted, .count = 0, .share = 0.5}};
        options.n_chunk = 64;
        const std::string adapter = folder_.write("adapter.gguf", testing::tiny_adapter().bytes());
        LatentUse& use = options.latent.emplace();
        use.options.adapter = adapter;
        use.options.encoder = model;
        use.ratio = 4;
        use.fingerprint = "abc";
    }
    std::vector<QualityResult> measure() {
        std::vector<QualityResult> results;
        EXPECT_TRUE(measure_quality(options, *loaded, {.on_result = [&](const QualityResult& r) {
                                        results.push_back(r);
                                    }}));
        return results;
    }

    testing::TemporaryFolder folder_;
    std::unique_ptr<Backend> backend;
    std::unique_ptr<LoadedModel> loaded;
    QualityOptions options;
};

TEST_F(LatentQuality, MemoriesAreHeldOverLatentsAndTextStandsBeside) {
    size_t full_bytes = 0;
    size_t n_latent = 0;
    size_t n_text = 0;
    for (const QualityResult& r : measure()) {
        SCOPED_TRACE(r.key());
        EXPECT_TRUE(std::isfinite(r.score));
        if (r.memory == kTextMemory) {
            EXPECT_TRUE(r.policy == "full" || r.policy == "window");
            EXPECT_TRUE(r.weights.empty());
            if (r.policy == "full") full_bytes = r.bytes;
            ++n_text;
            continue;
        }
        ++n_latent;
        EXPECT_EQ(r.memory, "latent 4x");
        EXPECT_EQ(r.weights, "abc");
        // What is predicted is compared with what the text itself makes likely.
        EXPECT_GT(r.score, 0);
        EXPECT_GT(r.nll_full, 0);
        // Tags and the window's rounding come to a few rows.
        if (r.policy == "full") {
            EXPECT_NEAR(r.kept, 0.25, 0.03);
            EXPECT_LT(r.bytes, full_bytes / 2);  // rooms are multiples of many rows
        } else if (r.protocol == "one-shot") {
            EXPECT_NEAR(r.kept, 0.125, 0.02);
        } else {
            EXPECT_LE(r.kept, 33.0 / static_cast<double>(r.n_context));
        }
    }
    EXPECT_EQ(n_text, 2U * 3);    // full; window, once and held to
    EXPECT_EQ(n_latent, 2U * 5);  // full; window and key-diff, once and held to
}

TEST_F(LatentQuality, AgentsStandBeside) {
    options.tasks = find_tasks(std::vector<std::string>{"niah_single_1"});
    options.lengths = {1024};
    options.n_samples = 1;
    options.memories.clear();
    options.one_shot.clear();
    options.streaming.clear();
    options.skim = {SkimChooser::kModel, SkimChooser::kWords};
    options.skim_chunk = 64;
    size_t n_agents = 0;
    for (const QualityResult& r : measure()) {
        if (r.memory != "skim 4x") continue;
        SCOPED_TRACE(r.key());
        ++n_agents;
        EXPECT_TRUE(r.options == "choose=model,chunk=64" || r.options == "choose=words,chunk=64");
        EXPECT_GT(r.n_written, 0);
        EXPECT_GT(r.bytes, 0U);
        EXPECT_GT(r.kept, 0);
        EXPECT_LT(r.kept, 1);
    }
    EXPECT_EQ(n_agents, 2U);
}

TEST_F(LatentQuality, EachConditionComesOnce) {
    std::vector<std::string> keys;
    for (const QualityResult& r : measure()) keys.push_back(r.key());
    const size_t n = keys.size();
    std::ranges::sort(keys);
    keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
    EXPECT_EQ(keys.size(), n);
}

}  // namespace
}  // namespace palimpsest
