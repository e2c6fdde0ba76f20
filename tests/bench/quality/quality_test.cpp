// The quality benchmark over the real model, on prompts short enough for a test.

#include "bench/quality/quality.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "core/error.h"
#include "engine/default_model.h"
#include "engine/generate.h"
#include "engine/memory_choice.h"
#include "memory/cache/memories.h"
#include "model/load.h"
#include "support/task_files.h"

namespace palimpsest {
namespace {

class RealQuality : public ::testing::Test {
 protected:
    void SetUp() override {
        if (!std::filesystem::exists(default_model_path())) {
            GTEST_SKIP() << "no model at " << default_model_path();
        }
        backend = std::make_unique<Backend>(1);
        loaded = std::make_unique<LoadedModel>(default_model_path(), *backend);
        options.tasks = find_tasks(std::vector<std::string>{"niah_single_1"});
        options.lengths = {512};
        options.n_samples = 1;
        options.memories = parse_memory_specs({"key-diff", "kvzip"}, nullptr);
        options.one_shot = {{.kind = Budget::Kind::kEvicted, .count = 0, .share = 0.5}};
        options.model_name = "test";
    }

    std::vector<QualityResult> measure() {
        std::vector<QualityResult> results;
        const bool whole = measure_quality(
            options, *loaded,
            {.is_known = [&](const std::string& key) { return known.contains(key); },
             .on_result = [&](const QualityResult& r) { results.push_back(r); },
             .on_left_out = [&](const std::string& why) { left_out.push_back(why); },
             .on_progress = {}});
        EXPECT_TRUE(whole);
        return results;
    }

    std::unique_ptr<Backend> backend;
    std::unique_ptr<LoadedModel> loaded;
    QualityOptions options;
    std::set<std::string> known;
    std::vector<std::string> left_out;
};

std::map<std::string, QualityResult> by_key(const std::vector<QualityResult>& results) {
    std::map<std::string, QualityResult> all;
    for (const QualityResult& r : results) all[r.key()] = r;
    return all;
}

TEST_F(RealQuality, TheFullCacheFindsTheNeedleAndHalfIsHalf) {
    options.aware = true;
    options.streaming = {{.kind = Budget::Kind::kEntries, .count = 128, .share = 0}};
    options.n_chunk = 128;
    const std::vector<QualityResult> results = measure();
    ASSERT_EQ(results.size(), 1 + 3 * 2 * 2);
    for (const QualityResult& r : results) {
        if (r.protocol == "full") {
            EXPECT_EQ(r.score, 1) << r.output;
            EXPECT_EQ(r.kept, 1);
        }
        if (r.protocol == "one-shot") {
            EXPECT_NEAR(r.kept, 0.5, 0.01);
            EXPECT_LT(r.bytes, r.full_bytes * 6 / 10);
        }
        if (r.protocol == "streaming") {
            EXPECT_LT(r.kept, 0.45);
        }
        EXPECT_GT(r.n_context, 300);
        EXPECT_GT(r.prefill_s, 0);
        EXPECT_LE(r.n_context + r.n_question + 128, 512);
    }
}

TEST_F(RealQuality, AnswersDoNotDependOnJobsAndLanes) {
    options.n_samples = 2;
    const auto one = by_key(measure());
    options.n_jobs = 2;
    options.n_lanes = 1;
    const auto two = by_key(measure());
    ASSERT_EQ(one.size(), two.size());
    for (const auto& [key, r] : one) EXPECT_EQ(r.output, two.at(key).output) << key;
}

TEST_F(RealQuality, WhatIsKnownIsNotComputedAgain) {
    const std::vector<QualityResult> first = measure();
    for (const QualityResult& r : first) known.insert(r.key());
    EXPECT_TRUE(measure().empty());
    known.erase(first.back().key());
    const std::vector<QualityResult> again = measure();
    ASSERT_EQ(again.size(), 1);
    EXPECT_EQ(again.front().output, first.back().output);
}

TEST_F(RealQuality, TheFullCacheAnswersAsASessionDoes) {
    const std::vector<QualityResult> results = measure();
    const QualityResult& full = results.front();
    SampleRequest request = {.length = 512, .n = 1, .seed = 42, .count_tokens = {}};
    const Tokenizer& t = loaded->require_tokenizer();
    request.count_tokens = [&](const Sample& s) {
        const ChatMessage message = {"user", {{s.context, true}, {s.question}}};
        int64_t n = std::ssize(t.encode(s.answer_prefix)) + s.n_new;
        for (const Segment& part : t.encode_chat(std::span(&message, 1))) {
            n += std::ssize(part.tokens);
        }
        return n;
    };
    const Sample s = options.tasks.front()->samples("niah_single_1", request).front();
    const ChatMessage message = {"user", {{s.context, true}, {s.question}}};
    std::vector<Segment> prompt = t.encode_chat(std::span(&message, 1));
    prompt.push_back({.tokens = t.encode(s.answer_prefix)});
    Session session(loaded->model(), *backend,
                    make_memory("kv", *backend, loaded->config().memory_shape(), {.n_ctx = 1024}));
    const GenerateResult r = generate(session, t, prompt, {.max_tokens = full.n_written}, {});
    EXPECT_EQ(r.text, full.output);
}

TEST_F(RealQuality, DivergenceGrowsWithWhatIsEvicted) {
    options.tasks = find_tasks(std::vector<std::string>{"text"});
    options.lengths = {400};
    std::string text;
    for (int i = 0; i < 400; ++i) text += cat("Line ", i * 7 % 13, " says that it is warm. ");
    const std::string path = (std::filesystem::temp_directory_path() /
                              cat("palimpsest-text-", reinterpret_cast<uintptr_t>(this)))
                                 .string();
    std::ofstream(path) << text;
    options.sources.text = path;
    options.memories.clear();
    options.one_shot.push_back({.kind = Budget::Kind::kEvicted, .count = 0, .share = 0.95});
    options.streaming = {{.kind = Budget::Kind::kEntries, .count = 32, .share = 0}};
    options.n_chunk = 64;
    const std::vector<QualityResult> results = measure();
    std::filesystem::remove(path);
    ASSERT_EQ(results.size(), 4);
    EXPECT_NEAR(results[0].score, 0, 1e-6);
    EXPECT_GT(results[1].score, 0);
    EXPECT_GT(results[2].score, results[1].score);
    EXPECT_GT(results[3].score, 0);
    EXPECT_NEAR(results[0].nll, results[0].nll_full, 1e-6);
    EXPECT_FALSE(results[3].kl_by_position.empty());
}

TEST_F(RealQuality, WhatAGroupHasNoDataForIsLeftOutAndToldSo) {
    options.possible = find_tasks(std::vector<std::string>{"longbench", "text"});
    EXPECT_EQ(measure().size(), 4);
    ASSERT_EQ(left_out.size(), options.possible.size());
    EXPECT_NE(left_out.front().find("--longbench"), std::string::npos) << left_out.front();
}

TEST_F(RealQuality, PartsOfATaskAreTasksOfTheirOwn) {
    testing::TemporaryFolder folder;
    const std::string line = R"({"input": "", "context": "a = 1", "answers": ["b"], "length": )";
    folder.write("lcc_e.jsonl", line + "9000}\n" + line + "10}\n");
    options.tasks = find_tasks(std::vector<std::string>{"lcc_e"});
    options.sources.longbench = folder.path();
    options.memories.clear();
    options.one_shot.clear();
    const std::vector<QualityResult> results = measure();
    ASSERT_EQ(results.size(), 2);
    EXPECT_EQ(results[0].task, "lcc_e 0-4k");
    EXPECT_EQ(results[1].task, "lcc_e 8k+");
    EXPECT_EQ(results[1].group, "longbench-e");
    for (const QualityResult& r : results) known.insert(r.key());
    EXPECT_TRUE(measure().empty());
}

TEST_F(RealQuality, LabelsAreReadAsAnswersAre) {
    testing::TemporaryFolder folder;
    folder.write("dialogRE/seed0.jsonl", R"({"1k": "Dialogue: a\nRelations: b, c\n\n", )"
                                         R"("Test Data": ["Dialogue: d\nRelations: "], )"
                                         R"("Test Target": ["B, c "]})");
    options.tasks = find_tasks(std::vector<std::string>{"dialogRE"});
    options.sources.many_icl = folder.path();
    options.memories.clear();
    options.one_shot.clear();
    const std::vector<QualityResult> results = measure();
    ASSERT_EQ(results.size(), 1);
    EXPECT_EQ(results[0].label, "b\nc");
    EXPECT_EQ(std::ranges::count(results[0].predicted, '\n'), 1) << results[0].predicted;
}

TEST_F(RealQuality, AHookStopsIt) {
    int calls = 0;
    const bool whole = measure_quality(
        options, *loaded,
        {.is_known = {},
         .on_result = [](const QualityResult&) { FAIL() << "it went on"; },
         .on_left_out = {},
         .on_progress = [&](int64_t, int64_t, const std::string&) { return ++calls < 1; }});
    EXPECT_FALSE(whole);
    EXPECT_EQ(calls, 1);
}

TEST_F(RealQuality, LengthsThatDoNotFitAreRefused) {
    options.lengths = {100000};
    EXPECT_THROW(measure(), Error);
    options.lengths = {64};
    EXPECT_THROW(measure(), Error);
}

}  // namespace
}  // namespace palimpsest
