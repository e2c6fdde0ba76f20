// Grouping, pairing with the full cache, which tasks count, and what stands beside the score.

#include "bench/quality/quality_summary.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "bench/tasks/metrics.h"
#include "support/quality_samples.h"

namespace palimpsest {
namespace {

using testing::full_result;
using testing::policy_result;

const SummaryRow* find_row(const QualitySummary& s, const std::string& policy,
                           const std::string& task) {
    const auto row = std::ranges::find_if(s.rows, [&](const SummaryRow& r) {
        return r.method.policy == policy && r.asked.task == task;
    });
    return row == s.rows.end() ? nullptr : &*row;
}

/// `task` with so many samples, of which the full cache knows `full` and the policy `kept`.
void add_task(std::vector<QualityResult>& to, const std::string& task, int n, int full, int kept) {
    for (int i = 0; i < n; ++i) {
        const std::string id = std::to_string(i);
        to.push_back(full_result(task, id, i < full ? 1 : 0));
        to.push_back(policy_result("h2o", task, id, i < kept ? 1 : 0));
    }
}

TEST(QualitySummary, PairsSamplesWithTheFullCachesOfTheSameSample) {
    std::vector<QualityResult> results;
    results.push_back(policy_result("h2o", "a", "1", 1));
    results.push_back(policy_result("h2o", "a", "2", 0));
    results.push_back(policy_result("h2o", "a", "unknown to the full cache", 1));
    for (const char* id : {"2", "1", "not asked of h2o"})
        results.push_back(full_result("a", id, 1));
    const QualitySummary s = summarize(results);
    const SummaryRow* row = find_row(s, "h2o", "a");
    ASSERT_NE(row, nullptr);
    EXPECT_EQ(row->n, 3);
    EXPECT_NEAR(row->score.mean, 200.0 / 3, 1e-9);
    EXPECT_EQ(row->n_paired, 2);
    ASSERT_TRUE(row->retention.has_value());
    EXPECT_NEAR(row->retention->mean, 50, 1e-9);
    EXPECT_EQ(row->full_score, 100);
}

TEST(QualitySummary, AnotherPromptIsAnotherSample) {
    std::vector<QualityResult> results = {full_result("a", "1", 1),
                                          policy_result("h2o", "a", "1", 1)};
    results[0].prompt = "another text";
    EXPECT_EQ(find_row(summarize(results), "h2o", "a")->n_paired, 0);
}

TEST(QualitySummary, FullCacheServesBothWaysOfAsking) {
    std::vector<QualityResult> results = {full_result("a", "1", 1)};
    for (const char* question : {"aware", "agnostic"}) {
        results.push_back(policy_result("h2o", "a", "1", 0.5));
        results.back().question = question;
    }
    const QualitySummary s = summarize(results);
    ASSERT_EQ(s.sections.size(), 2U);
    for (const Section& section : s.sections) {
        ASSERT_EQ(section.means.size(), 1U);
        ASSERT_TRUE(section.means[0].mean.has_value());
        EXPECT_NEAR(section.means[0].mean->mean, 50, 1e-9);
        EXPECT_EQ(section.rows.front()->protocol, "full");
    }
}

TEST(QualitySummary, FullCacheWithTheSameEntriesIsPreferred) {
    std::vector<QualityResult> results = {full_result("a", "1", 1), full_result("a", "1", 0.5),
                                          policy_result("h2o", "a", "1", 0.5)};
    results[1].entries = "q8_0";
    results[2].entries = "q8_0";
    EXPECT_NEAR(find_row(summarize(results), "h2o", "a")->retention->mean, 100, 1e-9);
    results[2].entries = "q4_0";  // no full cache has these: f16
    EXPECT_NEAR(find_row(summarize(results), "h2o", "a")->retention->mean, 50, 1e-9);
}

TEST(QualitySummary, TasksUnderThirtyAreShownButLeftOutOfTheMean) {
    std::vector<QualityResult> results;
    add_task(results, "easy", 10, 10, 5);
    add_task(results, "thirty", 10, 3, 3);
    add_task(results, "chance", 10, 2, 0);
    const QualitySummary s = summarize(results);
    ASSERT_EQ(s.sections.size(), 1U);
    const Section& section = s.sections[0];
    ASSERT_EQ(section.tasks.size(), 3U);
    EXPECT_TRUE(section.tasks[0].counts);
    EXPECT_TRUE(section.tasks[1].counts);
    EXPECT_FALSE(section.tasks[2].counts);
    EXPECT_NEAR(section.means[0].mean->mean, 75, 1e-9);
    EXPECT_EQ(section.means[0].n_task, 2U);
    EXPECT_NEAR(*section.full_mean, 65, 1e-9);
    EXPECT_NE(find_row(s, "h2o", "chance"), nullptr);
}

/// The full cache knows task b's second sample only, of which the question was known to nobody.
TEST(QualitySummary, WhatCountsIsToldBySamplesThatASectionWasAsked) {
    std::vector<QualityResult> results = {full_result("a", "1", 1), full_result("b", "1", 0),
                                          full_result("b", "2", 1)};
    const auto ask = [&](const char* question, const char* task, const char* sample) {
        results.push_back(policy_result("h2o", task, sample, 0.5));
        results.back().question = question;
    };
    ask("aware", "a", "1");
    ask("aware", "b", "1");
    ask("agnostic", "a", "1");
    ask("agnostic", "b", "1");
    ask("agnostic", "b", "2");
    const QualitySummary s = summarize(results);
    ASSERT_EQ(s.sections.size(), 2U);
    for (const Section& section : s.sections) {
        const bool is_aware = section.question == "aware";
        EXPECT_EQ(section.n_counting(), is_aware ? 1U : 2U);
        EXPECT_EQ(section.full_mean, is_aware ? 100 : 75);
        ASSERT_EQ(section.means.size(), 1U);
        EXPECT_EQ(section.means[0].n_task, section.n_counting());
        EXPECT_TRUE(section.means[0].mean.has_value());
    }
}

TEST(QualitySummary, MeanOverFewerTasksSaysSo) {
    std::vector<QualityResult> results;
    add_task(results, "a", 4, 4, 2);
    add_task(results, "b", 4, 4, 2);
    for (int i = 0; i < 4; ++i) {
        results.push_back(policy_result("window", "a", std::to_string(i), 1));
    }
    const QualitySummary s = summarize(results);
    const Section& section = s.sections.at(0);
    const auto window = std::ranges::find(section.means, "window", &MethodMean::label);
    ASSERT_NE(window, section.means.end());
    EXPECT_EQ(window->n_task, 1U);
    EXPECT_EQ(section.n_counting(), 2U);
}

TEST(QualitySummary, WithoutTheFullCacheMeansAreOfScores) {
    std::vector<QualityResult> results;
    for (const char* id : {"1", "2", "3", "4"}) {
        results.push_back(policy_result("h2o", "a", id, id[0] == '1' ? 1 : 0));
    }
    const QualitySummary s = summarize(results);
    const Section& section = s.sections.at(0);
    EXPECT_FALSE(section.has_retention);
    EXPECT_FALSE(section.full_mean.has_value());
    EXPECT_NEAR(section.means[0].mean->mean, 25, 1e-9);
    EXPECT_LT(section.means[0].mean->low, 25);
}

TEST(QualitySummary, ScoresOfZeroEverywhereGiveNoRetention) {
    std::vector<QualityResult> results;
    add_task(results, "a", 5, 0, 0);
    const QualitySummary s = summarize(results);
    EXPECT_FALSE(find_row(s, "h2o", "a")->retention.has_value());
    EXPECT_FALSE(s.sections[0].has_retention);
    EXPECT_EQ(s.sections[0].means[0].mean->mean, 0);
}

TEST(QualitySummary, OfTheSameKeyTheLastCounts) {
    std::vector<QualityResult> results = {policy_result("h2o", "a", "1", 0),
                                          policy_result("h2o", "a", "1", 1)};
    const QualitySummary s = summarize(results);
    EXPECT_EQ(s.rows.at(0).n, 1);
    EXPECT_EQ(s.rows.at(0).score.mean, 100);
    EXPECT_EQ(s.facts.n_repeated, 1U);
}

TEST(QualitySummary, ProtocolsBudgetsAndMethodsAreNotMixed) {
    std::vector<QualityResult> results(6, policy_result("h2o", "a", "1", 1));
    results[1].protocol = "streaming";
    results[2].budget = "evict 75 %";
    results[3].allocator = "adaptive";
    results[4].options = "a=1";
    results[5].chunk = 128;
    const QualitySummary s = summarize(results);
    EXPECT_EQ(s.rows.size(), 6U);
    EXPECT_EQ(s.rows[3].label, "h2o/adaptive, chunk 512");
    EXPECT_EQ(s.rows[4].label, "h2o (a=1), chunk 512");
    EXPECT_EQ(s.rows[5].label, "h2o, chunk 128");
}

/// Of one training all is one method; of two, each is its own.
TEST(QualitySummary, WeightsOfSeveralTrainingsAreNotMixed) {
    std::vector<QualityResult> results = {policy_result("gate", "vt", "1", 1),
                                          policy_result("gate", "vt", "2", 0)};
    results[0].weights = "0123456789abcdef";
    EXPECT_EQ(summarize(results).rows.size(), 1U);
    EXPECT_EQ(summarize(results).rows[0].label, "gate/uniform");
    results[1].weights = "fedcba9876543210";
    const QualitySummary two = summarize(results);
    ASSERT_EQ(two.rows.size(), 2U);
    EXPECT_EQ(two.rows[1].label, "gate/uniform, weights fedcba98");
}

/// Products in another arithmetic make another model of it.
TEST(QualitySummary, ReadingsAreNotMixed) {
    std::vector<QualityResult> results = {policy_result("gate", "vt", "1", 1),
                                          policy_result("gate", "vt", "2", 0)};
    for (QualityResult& r : results) r.reading = "int8";
    EXPECT_EQ(summarize(results).rows.size(), 1U);
    results[1].reading.clear();
    const QualitySummary two = summarize(results);
    ASSERT_EQ(two.rows.size(), 2U);
    EXPECT_EQ(two.rows[0].asked.model, "tiny.gguf 0123, products in int8");
    EXPECT_EQ(two.rows[1].asked.model, "tiny.gguf 0123");
}

TEST(QualitySummary, UsualAllocatorsAreNotNamed) {
    MemoryMethod m = {.memory = "kv",
                      .policy = "pyramid-kv",
                      .allocator = "pyramid",
                      .residue = "none",
                      .options = "",
                      .entries = "f16"};
    EXPECT_EQ(to_string(m), "pyramid-kv");
    m.policy = "snap-kv";
    m.residue = "merge";
    m.entries = "q8_0";
    EXPECT_EQ(to_string(m), "snap-kv/pyramid+merge, q8_0");
}

TEST(QualitySummary, RatesArePooledAndBytesAreMeans) {
    std::vector<QualityResult> results = {policy_result("h2o", "a", "1", 1),
                                          policy_result("h2o", "a", "2", 1)};
    results[0].n_context = 1000, results[0].prefill_s = 1, results[0].bytes = 100;
    results[1].n_context = 3000, results[1].prefill_s = 7, results[1].bytes = 300;
    results[0].peak_bytes = 400, results[1].peak_bytes = 900, results[1].lanes = 4;
    const QualitySummary s = summarize(results);
    EXPECT_EQ(s.rows[0].prefill_per_s, 500);
    EXPECT_EQ(s.rows[0].decode_per_s, 20);
    EXPECT_EQ(s.rows[0].bytes, 200);
    EXPECT_EQ(s.rows[0].peak_bytes, 900U);
    EXPECT_EQ(s.rows[0].lanes, 4);
    EXPECT_EQ(s.rows[0].bytes_share(), 0.2);
}

TEST(QualitySummary, BudgetsStandInTheOrderOfWhatTheyKeep) {
    std::vector<QualityResult> results(3, policy_result("h2o", "a", "1", 1));
    results[0].budget = "evict 90 %", results[0].kept = 0.1;
    results[2].budget = "evict 25 %", results[2].kept = 0.75;
    const QualitySummary s = summarize(results);
    EXPECT_EQ(s.sections[0].budgets,
              (std::vector<std::string>{"evict 25 %", "evict 50 %", "evict 90 %"}));
}

TEST(QualitySummary, DivergenceIsKeptApartFromScores) {
    std::vector<QualityResult> results = {policy_result("h2o", "text", "1", 2),
                                          policy_result("h2o", "text", "2", 4)};
    for (QualityResult& r : results) {
        r.metric = "kl";
        r.nll = 3 + r.score;
        r.nll_full = 3;
        r.kl_by_position = {{.begin = 0, .end = 8, .kl = r.score}};
    }
    const QualitySummary s = summarize(results);
    EXPECT_TRUE(s.sections.empty());
    EXPECT_EQ(s.rows[0].score.mean, 3);
    EXPECT_FALSE(s.rows[0].retention.has_value());
    EXPECT_EQ(s.rows[0].nll_difference->mean, 3);
    EXPECT_EQ(s.rows[0].kl_by_position.at(0).kl, 3);
}

TEST(QualitySummary, NeedlesAreCountedByDepth) {
    std::vector<QualityResult> results;
    for (const double depth : {0.0, 0.1 + 0.2, 0.3, 1.0}) {  // the middle two are the same place
        results.push_back(
            full_result("needle", std::to_string(results.size()), depth > 0.5 ? 0 : 1));
        results.back().group = "needle";
        results.back().depth = depth;
    }
    const QualitySummary s = summarize(results);
    ASSERT_EQ(s.depths.size(), 3U);
    EXPECT_EQ(s.rows[0].score_by_depth, (std::vector<double>{100, 100, 0}));
}

TEST(QualitySummary, OfNothingIsEmpty) {
    const QualitySummary s = summarize({});
    EXPECT_TRUE(s.rows.empty());
    EXPECT_TRUE(s.sections.empty());
}

TEST(MacroF1, WorkedExample) {
    // a: 2 right of 3 labelled and 3 predicted, F1 2/3; b: 1 of 2 and 2, 1/2; c: 0 of 1 and 1, 0.
    const std::vector<std::string> labels = {"a", "a", "a", "b", "b", "c"};
    const std::vector<std::string> predictions = {"a", "a", "b", "b", "c", "a"};
    EXPECT_NEAR(macro_f1(labels, predictions), (2.0 / 3 + 1.0 / 2 + 0) / 3, 1e-12);
}

TEST(MacroF1, AnEmptyPredictionIsAMissAndNoClass) {
    const std::vector<std::string> labels = {"a", "a"};
    const std::vector<std::string> predictions = {"a", ""};
    EXPECT_NEAR(macro_f1(labels, predictions), 2.0 / 3, 1e-12);
}

TEST(MacroF1, IsGivenWhereThereAreClasses) {
    std::vector<QualityResult> results = {full_result("shots", "1", 1),
                                          full_result("shots", "2", 0),
                                          policy_result("h2o", "shots", "1", 0)};
    results[0].label = results[0].predicted = "yes";
    results[1].label = "no", results[1].predicted = "yes";
    results[2].label = "yes", results[2].predicted = "no";
    const QualitySummary s = summarize(results);
    EXPECT_NEAR(*find_row(s, "full", "shots")->macro_f1, 100.0 / 3, 1e-9);
    EXPECT_EQ(*find_row(s, "h2o", "shots")->macro_f1, 0);
    EXPECT_EQ(*find_row(s, "h2o", "shots")->full_macro_f1, 100);
    EXPECT_FALSE(summarize(std::vector{full_result("a", "1", 1)}).rows[0].macro_f1.has_value());
}

}  // namespace
}  // namespace palimpsest
