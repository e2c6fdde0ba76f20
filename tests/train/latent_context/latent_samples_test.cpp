// What latents are learnt from: sources of whole windows, prompts as the program itself writes
// them.

#include "train/latent_context/latent_samples.h"

#include <gtest/gtest.h>

#include "compress/skim/protocol.h"
#include "support/golden.h"
#include "support/tiny_model.h"

namespace palimpsest {
namespace {

class LatentSamplesTest : public ::testing::Test {
 protected:
    LatentSamplesTest()
        : file_(testing::speaking_model_bytes({.n_layer = 1})),
          gguf_(GgufFile::open(file_.path())),
          tokenizer_(Tokenizer::load(file_.path(), gguf_)) {
        std::string text;
        for (int i = 0; i < 200; ++i) text += cat("Rule ", i, ": hello, pay ", i * i % 97, ". ");
        texts_ = {text};
    }
    [[nodiscard]] std::string text_of(const LatentSample& s) const {
        std::string text;
        for (const LatentSample::Part& p : s.prompt) {
            text += p.is_source ? cat("<", p.tokens.size(), ">") : tokenizer_->decode(p.tokens);
        }
        return text;
    }

    testing::TemporaryFile file_;
    GgufFile gguf_;
    std::unique_ptr<Tokenizer> tokenizer_;
    std::vector<std::string> texts_;
};

TEST_F(LatentSamplesTest, SourcesAreWholeWindowsAndTargetsHaveTheirLimit) {
    const LatentSamples samples(*tokenizer_, texts_);
    for (int64_t task = 0; task < kLatentTasks; ++task) {
        for (const int64_t n_windows : {1, 3}) {
            SCOPED_TRACE(cat("task ", task, ", windows ", n_windows));
            const LatentSizes sizes = {.n_window = 64, .n_windows = n_windows, .n_target = 48};
            Random random(7);
            for (int i = 0; i < 20; ++i) {
                const LatentSample s = samples.make(static_cast<LatentTask>(task), sizes, random);
                EXPECT_EQ(s.n_source(), 64 * n_windows);
                EXPECT_FALSE(s.target.empty());
                EXPECT_LE(std::ssize(s.target), 49);  // the end of the turn beside it
            }
        }
    }
}

TEST_F(LatentSamplesTest, WhatIsRepeatedIsTheSource) {
    const LatentSamples samples(*tokenizer_, texts_);
    Random random(3);
    const LatentSizes sizes = {.n_window = 64, .n_windows = 2, .n_target = 200};
    LatentSample s = samples.make(LatentTask::kRepeat, sizes, random);
    size_t n_sources = 0;
    for (const LatentSample::Part& p : s.prompt) {
        if (!p.is_source) continue;
        s.target.resize(p.tokens.size());  // without the end of the turn
        EXPECT_EQ(s.target, p.tokens);
        ++n_sources;
    }
    EXPECT_EQ(n_sources, 1U);
}

TEST_F(LatentSamplesTest, ChunksStandAsTheAgentShowsThem) {
    const LatentSamples samples(*tokenizer_, texts_);
    const LatentSizes sizes = {.n_window = 128, .n_windows = 4, .n_target = 100, .ratio = 4};
    Random random(5);
    int n_asking = 0;
    int n_answering = 0;
    for (int i = 0; i < 40; ++i) {
        const LatentSample s = samples.make(LatentTask::kExpand, sizes, random);
        const std::string text = text_of(s);
        EXPECT_NE(text.find(system_text({.ratio = 4, .n_chunks = 4, .rounds_left = 5})), text.npos)
            << text;
        EXPECT_NE(text.find("Chunk 4: <128>\n"), text.npos) << text;
        const SkimAction action = parse_action(tokenizer_->decode(s.target), 4);
        EXPECT_TRUE(action.is_directive);
        if (action.is_answer) {
            // What it is answered from was shown.
            EXPECT_NE(text.find("The original text of chunk"), text.npos);
            EXPECT_NE(text.find(action.answer), text.npos) << action.answer << " in " << text;
            ++n_answering;
        } else {
            EXPECT_EQ(action.chunks.size(), 1U);
            EXPECT_EQ(text.find("The original text of chunk"), text.npos);
            ++n_asking;
        }
    }
    EXPECT_GT(n_asking, 10);
    EXPECT_GT(n_answering, 10);
}

}  // namespace
}  // namespace palimpsest
