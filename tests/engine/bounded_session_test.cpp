// Bounded memories under a model: long inputs, lanes, repetition, and the report of what went.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "engine/report.h"
#include "engine/session.h"
#include "memory/policy/policies.h"
#include "support/golden.h"
#include "support/sidecar.h"
#include "support/tiny_model.h"

namespace palimpsest {
namespace {

using testing::all_logits;
using testing::max_difference;
using testing::tiny_tokens;
using testing::TinyModel;
using testing::TinyModelOptions;
using testing::write_greedily;

constexpr int64_t kBudget = 64;
constexpr int64_t kWindow = 256;  // what the tiny model was trained for
constexpr int64_t kChunk = 40;

/// For a tiny model as it is if nothing is said.
std::shared_ptr<const EvictionWeights> trained() {
    static const auto kWeights = testing::small_weights(TinyModel().shape());
    return kWeights;
}

EvictionOptions eviction(const std::string& policy) {
    EvictionOptions e = {.policy = policy};
    if (policy == "snap-kv" || policy == "pyramid-kv" || policy == "chunk-kv") {
        e.settings = {{"window", "8"}};
    }
    e.budget = {.kind = Budget::Kind::kEntries, .count = kBudget, .share = 0};
    e.n_recent = 8;
    e.interval = 16;
    return e;
}

EvictionSupplies supplies(std::shared_ptr<const EvictionWeights> learned = trained()) {
    return {.n_chunk = kChunk, .learned = std::move(learned)};
}

std::unique_ptr<ContextMemory> memory_of(TinyModel& tiny, const EvictionOptions& options,
                                         const EvictionSupplies& with = supplies()) {
    return make_memory(
        "kv", tiny.backend(), tiny.shape(),
        {.n_ctx = kWindow, .entries = GGML_TYPE_F32, .eviction = options, .supplies = with});
}

Session session_of(TinyModel& tiny, const EvictionOptions& options,
                   const EvictionSupplies& with = supplies()) {
    return {tiny.model(), tiny.backend(), memory_of(tiny, options, with), {.n_chunk = kChunk}};
}

std::vector<std::string> evicting_policies() {
    std::vector<std::string> names;
    for (const PolicyKind& kind : policy_kinds()) {
        if (kind.make != nullptr) names.emplace_back(kind.name);
    }
    return names;
}

class BoundedSession : public ::testing::TestWithParam<std::string> {
 protected:
    TinyModel tiny;
};

TEST_P(BoundedSession, ReadsAndWritesTenWindows) {
    Session session = session_of(tiny, eviction(GetParam()));
    session.feed(tiny_tokens(10 * kWindow));
    for (const float x : session.logits()) ASSERT_TRUE(std::isfinite(x));
    EXPECT_EQ(write_greedily(session, 3 * kWindow).size(), 3 * kWindow);
    EXPECT_GT(session.room(), 1000 * kWindow);
    const MemoryReport report = session.memory().report();
    EXPECT_GT(report.n_renumbered, 0);
    int64_t held = 0;
    for (const auto& layer : report.layers) {
        for (const int64_t n : layer.held) held += n;
    }
    EXPECT_LE(held, 4 * (kBudget + 16));
}

/// What was written since the last cut must not take the room of a chunk.
TEST_P(BoundedSession, ReadsAWholeChunkAfterWriting) {
    const auto tight = [&] {
        return make_memory("kv", tiny.backend(), tiny.shape(),
                           {.n_ctx = kBudget + kChunk,
                            .entries = GGML_TYPE_F32,
                            .eviction = eviction(GetParam()),
                            .supplies = supplies()});
    };
    Session session(tiny.model(), tiny.backend(), tight(), {.n_chunk = kChunk});
    session.feed(tiny_tokens(200));
    for (int turn = 0; turn < 3; ++turn) {
        write_greedily(session, 5);
        session.feed(tiny_tokens(kChunk, 3));
    }
    for (const float x : session.logits()) ASSERT_TRUE(std::isfinite(x));
}

EvictionOptions one_shot(const std::string& policy, double evicted) {
    EvictionOptions e = eviction(policy);
    e.budget = {.kind = Budget::Kind::kEvicted, .count = 0, .share = evicted};
    e.n_recent = -1;
    e.one_shot = true;
    return e;
}

/// What a session says after it has read a question on top of what it holds.
std::vector<float> answer_of(Session& session, const std::vector<TokenId>& question) {
    session.feed(question, {.may_forget = false});
    return {session.logits().begin(), session.logits().end()};
}

TEST_P(BoundedSession, AForkEqualsReadingByItself) {
    const std::vector<TokenId> text = tiny_tokens(150);
    const std::vector<TokenId> question = tiny_tokens(9, 3);
    const EvictionOptions half = one_shot(GetParam(), 0.5);
    // h2o watches too: it must not be disturbed by what another policy asks of the reading.
    auto cache = std::make_unique<KvCache>(
        tiny.backend(), tiny.shape(),
        KvCacheOptions{.n_ctx = kWindow,
                       .entries = GGML_TYPE_F32,
                       .supplies = supplies(),
                       .watching = {one_shot("h2o", 0), one_shot(GetParam(), 0)}});
    const KvCache& read = *cache;
    Session reader(tiny.model(), tiny.backend(), std::move(cache), {.n_chunk = kChunk});
    reader.feed(text);
    for (const EvictionOptions& o : {half, one_shot("h2o", 0.75)}) {
        Session alone = session_of(tiny, o);
        alone.feed(text);
        Session forked(tiny.model(), tiny.backend(), read.fork(o), {.n_chunk = kChunk});
        EXPECT_EQ(forked.position(), 150);
        const MemoryReport report = forked.memory().report();
        EXPECT_EQ(report.held_share, alone.memory().report().held_share) << o.policy;
        EXPECT_EQ(report.bytes.entries, alone.memory().report().bytes.entries);
        EXPECT_EQ(answer_of(forked, question), answer_of(alone, question)) << o.policy;
    }
}

/// What goes into a residue when a fork is cut is what went when it was read alone.
TEST(BoundedSessionForks, HaveTheResidueOfReadingByItself) {
    TinyModel tiny;
    const std::vector<TokenId> text = tiny_tokens(150);
    const std::vector<TokenId> question = tiny_tokens(9, 3);
    const auto softmax = testing::small_softmax_memory(tiny.shape());
    for (const auto& [policy, residue, weights] : {std::tuple("gate", "latent", trained()),
                                                   {"gate", "centroids", trained()},
                                                   {"indexer", "latent", trained()},
                                                   {"tova", "merge", trained()},
                                                   {"key-diff", "latent", softmax}}) {
        EvictionOptions o = one_shot(policy, 0.5);
        o.residue = residue;
        EvictionOptions plain = one_shot(policy, 0);
        auto cache = std::make_unique<KvCache>(tiny.backend(), tiny.shape(),
                                               KvCacheOptions{.n_ctx = kWindow,
                                                              .entries = GGML_TYPE_F32,
                                                              .supplies = supplies(weights),
                                                              .watching = {plain}});
        const KvCache& read = *cache;
        Session reader(tiny.model(), tiny.backend(), std::move(cache), {.n_chunk = kChunk});
        reader.feed(text);
        Session alone = session_of(tiny, o, supplies(weights));
        alone.feed(text);
        Session forked(tiny.model(), tiny.backend(), read.fork(o), {.n_chunk = kChunk});
        const std::vector<float> answer = answer_of(alone, question);
        EXPECT_EQ(answer_of(forked, question), answer) << policy << " " << residue;
        o.residue = "none";
        Session without(tiny.model(), tiny.backend(), read.fork(o), {.n_chunk = kChunk});
        EXPECT_NE(answer_of(without, question), answer) << policy << " " << residue;
    }
}

/// Nothing goes, so nothing is written to a residue, and nothing is read from it: bit for bit.
TEST(BoundedSessionForks, WhereNothingGoesNothingChanges) {
    TinyModel tiny;
    const std::vector<TokenId> text = tiny_tokens(150);
    const std::vector<TokenId> question = tiny_tokens(9, 3);
    Session full = tiny.session(kChunk);
    full.feed(text);
    const std::vector<float> expected = answer_of(full, question);
    for (const char* policy : {"indexer", "gate", "snap-kv"}) {
        for (const char* residue : {"none", "latent", "centroids"}) {
            EvictionOptions o = one_shot(policy, 0);
            o.residue = residue;
            Session session = session_of(tiny, o);
            session.feed(text);
            EXPECT_EQ(answer_of(session, question), expected) << policy << " " << residue;
        }
    }
}

TEST_P(BoundedSession, AReaderGoesOnAfterForks) {
    const std::vector<TokenId> text = tiny_tokens(150);
    const std::vector<TokenId> more = tiny_tokens(20, 5);
    const EvictionOptions half = one_shot(GetParam(), 0.5);
    auto cache = std::make_unique<KvCache>(tiny.backend(), tiny.shape(),
                                           KvCacheOptions{.n_ctx = kWindow,
                                                          .entries = GGML_TYPE_F32,
                                                          .supplies = supplies(),
                                                          .watching = {half}});
    const KvCache& read = *cache;
    Session reader(tiny.model(), tiny.backend(), std::move(cache), {.n_chunk = kChunk});
    reader.feed(text);
    { Session forked(tiny.model(), tiny.backend(), read.fork(half), {.n_chunk = kChunk}); }
    reader.feed(more);
    Session all = tiny.session(kChunk);
    all.feed(text);
    all.feed(more);
    EXPECT_EQ(max_difference(reader.logits(), all.logits()), 0);
    EXPECT_EQ(read.fork(half)->usage().positions_seen, 170);
}

TEST(BoundedSessionForks, ByMassNeedTheLastQueryToo) {
    TinyModel tiny;
    const std::vector<TokenId> text = tiny_tokens(150);
    const std::vector<TokenId> question = tiny_tokens(9, 3);
    EvictionOptions by_mass = one_shot("key-norm", 0.5);
    by_mass.allocator = "mass";
    const auto reading = [&](const std::vector<EvictionOptions>& watching) {
        return std::make_unique<KvCache>(tiny.backend(), tiny.shape(),
                                         KvCacheOptions{.n_ctx = kWindow,
                                                        .entries = GGML_TYPE_F32,
                                                        .supplies = supplies(),
                                                        .watching = watching});
    };
    auto cache = reading({one_shot("key-norm", 0), by_mass});
    const KvCache& read = *cache;
    Session reader(tiny.model(), tiny.backend(), std::move(cache), {.n_chunk = kChunk});
    reader.feed(text);
    Session alone = session_of(tiny, by_mass);
    alone.feed(text);
    Session forked(tiny.model(), tiny.backend(), read.fork(by_mass), {.n_chunk = kChunk});
    EXPECT_EQ(answer_of(forked, question), answer_of(alone, question));
    EXPECT_THROW(static_cast<void>(reading({one_shot("key-norm", 0)})->fork(by_mass)), Error);
}

TEST(BoundedSessionErrors, AForkNeedsAPolicyThatWatched) {
    TinyModel tiny;
    const KvCache cache(tiny.backend(), tiny.shape(),
                        {.n_ctx = kWindow,
                         .entries = GGML_TYPE_F32,
                         .supplies = supplies(),
                         .watching = {one_shot("snap-kv", 0)}});
    EXPECT_THROW(static_cast<void>(cache.fork(one_shot("h2o", 0.5))), Error);
    EXPECT_THROW(static_cast<void>(cache.fork(eviction("snap-kv"))), Error);
    EvictionOptions other = one_shot("snap-kv", 0.5);
    other.settings["window"] = "16";
    EXPECT_THROW(static_cast<void>(cache.fork(other)), Error);
}

TEST_P(BoundedSession, TheSameInputGivesTheSameText) {
    std::vector<TokenId> texts[2];
    for (auto& text : texts) {
        Session session = session_of(tiny, eviction(GetParam()));
        session.feed(tiny_tokens(700));
        text = write_greedily(session, 60);
    }
    EXPECT_EQ(texts[0], texts[1]);
}

TEST_P(BoundedSession, ABudgetThatNothingExceedsChangesNothing) {
    EvictionOptions options = eviction(GetParam());
    options.budget.count = 200;
    Session bounded = session_of(tiny, options);
    Session full = tiny.session(kChunk);
    const std::vector<TokenId> tokens = tiny_tokens(190);
    // Rehearsed, the same tokens are read in other steps, whose products sum in another order.
    EXPECT_LE(max_difference(all_logits(bounded, tokens), all_logits(full, tokens)), 2e-5);
}

TEST_P(BoundedSession, OneShotCutsOnceAfterThePrompt) {
    EvictionOptions options = eviction(GetParam());
    options.one_shot = true;
    options.budget = {.kind = Budget::Kind::kEvicted, .count = 0, .share = 0.75};
    Session session = session_of(tiny, options);
    Session full = tiny.session(kChunk);
    const std::vector<TokenId> tokens = tiny_tokens(200);
    session.feed(tokens);
    full.feed(tokens);
    EXPECT_LE(max_difference(session.logits(), full.logits()), 2e-5) << "the prompt saw everything";
    const MemoryReport report = session.memory().report();
    EXPECT_EQ(report.n_cuts, 1);
    int64_t held = 0;
    for (const auto& layer : report.layers) {
        for (const int64_t n : layer.held) held += n;
    }
    EXPECT_LE(held, 4 * 50);
    EXPECT_GE(held, 4 * 40) << "whole runs may leave a little unused";
    write_greedily(session, 20);
    EXPECT_EQ(session.memory().report().n_cuts, 1);
}

INSTANTIATE_TEST_SUITE_P(Policies, BoundedSession, ::testing::ValuesIn(evicting_policies()),
                         [](const auto& test) {
                             std::string name = test.param;
                             std::ranges::replace(name, '-', '_');
                             return name;
                         });

TEST(BoundedLanes, SideBySideEqualEachAlone) {
    TinyModel tiny;
    std::vector<std::string> policies = evicting_policies();
    // A lane cannot be rehearsed by itself.
    std::erase_if(policies, [](const std::string& p) { return p == "kvzip" || p == "question"; });
    const std::vector<TokenId> tokens = tiny_tokens(320);
    const auto run = [&](const std::vector<std::string>& names) {
        std::vector<std::unique_ptr<ContextMemory>> memories;
        memories.reserve(names.size());
        for (const std::string& name : names) {
            memories.push_back(memory_of(tiny, eviction(name)));
        }
        Evaluator evaluator(tiny.model(), tiny.backend());
        std::vector<float> last;
        for (int64_t at = 0; at < std::ssize(tokens); at += kChunk) {
            std::vector<Lane> lanes;
            lanes.reserve(memories.size());
            for (const auto& memory : memories) {
                lanes.push_back({.memory = memory.get(),
                                 .step = {.n = kChunk,
                                          .first_pos = memory->next_position(),
                                          .is_prefill = at + kChunk < std::ssize(tokens)},
                                 .runs = {{.tokens = std::span(tokens).subspan(
                                               static_cast<size_t>(at), kChunk)}}});
            }
            const std::span<const float> logits = evaluator.evaluate(lanes);
            last.assign(logits.begin(), logits.end());
        }
        return last;
    };
    std::vector<float> alone;
    for (const std::string& name : policies) {
        const std::vector<float> logits = run({name});
        alone.insert(alone.end(), logits.begin(), logits.end());
    }
    EXPECT_LE(max_difference(run(policies), alone), 2e-5);
}

TEST(BoundedGemma, SlidingLayersKeepTheirWindow) {
    TinyModel tiny(TinyModelOptions{.architecture = "gemma3", .n_layer = 4});
    Session session = session_of(tiny, eviction("window"));
    session.feed(tiny_tokens(5 * kWindow));
    write_greedily(session, kWindow);
    const MemoryReport report = session.memory().report();
    EXPECT_EQ(report.layers[0].held[0], 7);
    EXPECT_LE(report.layers[1].held[0], kBudget + 16);
    EXPECT_GT(report.n_renumbered, 0);
}

TEST(BoundedShare, IsAShareOfThePrompt) {
    TinyModel tiny;
    EvictionOptions options = eviction("key-norm");
    options.budget = {.kind = Budget::Kind::kShare, .count = 0, .share = 0.2};
    Session session = session_of(tiny, options);
    session.feed(tiny_tokens(500));
    EXPECT_EQ(session.memory().usage().entries_held, 100);
}

// ---- the report
// -----------------------------------------------------------------------------------

MemoryReport some_report() {
    MemoryReport r = {.policy = "window", .allocator = "uniform", .entries = "f16"};
    r.budget = "8 entries a head";
    r.budget_entries = 8;
    r.positions_seen = 10;
    r.held_share = {1, 1, 0, 0, 0, 0.25F, 0.04F, 0.5F, 1, 1};
    r.layers = {{.window = 0, .held = {5, 4}, .bytes = 100}, {.window = 16, .held = {9, 9}}};
    r.bytes.entries = 2000;
    return r;
}

TEST(Report, SpansCoverEveryPositionOnce) {
    const auto spans = retention_spans(some_report());
    std::vector<std::pair<int64_t, Retention>> found;
    int64_t at = 0;
    for (const RetentionSpan& s : spans) {
        EXPECT_EQ(s.begin, at);
        at = s.end;
        found.emplace_back(s.end, s.retention);
    }
    EXPECT_EQ(at, 10);
    const std::vector<std::pair<int64_t, Retention>> expected = {{2, Retention::kKept},
                                                                 {5, Retention::kDropped},
                                                                 {6, Retention::kPartly},
                                                                 {7, Retention::kDropped},
                                                                 {10, Retention::kKept}};
    EXPECT_EQ(found, expected);
}

TEST(Report, WhatAResidueTookInIsLatent) {
    MemoryReport r = some_report();
    r.is_residue_readable = true;
    EXPECT_EQ(retention_spans(r)[1].retention, Retention::kLatent);
}

TEST(Report, JsonSaysTheSame) {
    const auto json = nlohmann::json::parse(report_json(some_report()));
    EXPECT_EQ(json["tokens_in"], 10);
    EXPECT_EQ(json["positions"]["dropped"], 4);
    EXPECT_EQ(json["positions"]["held_by_no_head"], 3);
    EXPECT_EQ(json["spans"].size(), 5);
    EXPECT_EQ(json["layers"][1]["window"], 16);
    EXPECT_EQ(json["bytes"]["total"], 2000);
}

TEST(Report, PeopleSeeTheLargestSpansAndTheSlidingLayers) {
    const std::string text = report_for_people(some_report(), {}, 80);
    EXPECT_NE(text.find("2–4 (3)"), std::string::npos) << text;
    EXPECT_NE(text.find("slide over their last 16"), std::string::npos) << text;
    EXPECT_NE(text.find("4 to 5 entries a head"), std::string::npos) << text;
}

TEST(Report, AFullMemoryKeepsEverything) {
    TinyModel tiny;
    Session session = tiny.session();
    session.feed(tiny_tokens(50));
    const MemoryReport report = session.memory().report();
    const auto spans = retention_spans(report);
    ASSERT_EQ(spans.size(), 1);
    EXPECT_EQ(spans[0].retention, Retention::kKept);
    EXPECT_NE(
        report_for_people(report, {&session.tokens(), nullptr}, 80).find("everything is kept"),
        std::string::npos);
}

TEST(Report, AnEmptyMemoryHasNothingToTell) {
    TinyModel tiny;
    const Session session = tiny.session();
    const MemoryReport report = session.memory().report();
    EXPECT_TRUE(retention_spans(report).empty());
    EXPECT_FALSE(report_for_people(report, {}, 20).empty());
    EXPECT_TRUE(nlohmann::json::accept(report_json(report)));
}

}  // namespace
}  // namespace palimpsest
