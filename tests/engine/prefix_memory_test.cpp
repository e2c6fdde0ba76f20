// A prefix as a dictionary, under a model: split and merge, identity, lookups, windows.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>

#include "core/error.h"
#include "engine/batch.h"
#include "engine/session.h"
#include "memory/kernels/attention_state.h"
#include "memory/kernels/scoring_kernel.h"
#include "memory/prefix/prefix_file.h"
#include "memory/prefix/prefix_trace.h"
#include "support/golden.h"
#include "support/tiny_model.h"
#include "support/traced_prefix.h"

namespace palimpsest {
namespace {

using testing::all_logits;
using testing::full_logits;
using testing::kPrefix;
using testing::layout_of;
using testing::max_difference;
using testing::tiny_tokens;
using testing::TinyModel;
using testing::Traced;
using testing::using_prefix;

constexpr int32_t kKept = 13;  // entries, where some are

TEST(PrefixTrace, SplitAndMergeEqualsOnePass) {
    for (const char* family : {"llama", "gemma3"}) {
        TinyModel tiny({.architecture = family, .n_layer = 3});
        Traced traced(tiny, layout_of(tiny));
        const auto trace = tiny_tokens(20, 2);
        const auto expected = full_logits(tiny, trace);
        EXPECT_LT(max_difference(traced.follow(trace), expected), 2e-5) << family;
        EXPECT_LT(max_difference(traced.follow(trace, 3), expected), 2e-5) << family;
    }
}

class PrefixIdentity : public ::testing::TestWithParam<PrefixLayout> {};

TEST_P(PrefixIdentity, UnclusteredRecordsGiveTheFullPrefixBack) {
    TinyModel tiny({.n_layer = 3}, 2);
    PrefixLayout layout = layout_of(tiny, GetParam().heads_per_key, GetParam().is_shared);
    Traced traced(tiny, layout);
    const auto trace = tiny_tokens(24, 2);
    traced.follow(trace);
    const auto expected = full_logits(tiny, trace);
    const PrefixUse use = {.documents = {traced.document()}};
    // Stored in f16: that, and nothing else, is the difference.
    for (const int64_t n_chunk : {512, 3, 1}) {
        Session session = using_prefix(tiny, use, {}, n_chunk);
        const auto logits = all_logits(session, trace);
        EXPECT_LT(max_difference(logits, expected), 5e-3) << n_chunk;
        EXPECT_EQ(session.position(), 24);
    }
}

INSTANTIATE_TEST_SUITE_P(Layouts, PrefixIdentity,
                         ::testing::Values(PrefixLayout{.heads_per_key = 1},
                                           PrefixLayout{.heads_per_key = 2},
                                           PrefixLayout{.heads_per_key = 1, .is_shared = true},
                                           PrefixLayout{.heads_per_key = 2, .is_shared = true}));

TEST(PrefixMemory, WithoutItTheAnswersAreFarFromTheFullPrefix) {
    TinyModel tiny({.n_layer = 3});
    const auto trace = tiny_tokens(24, 2);
    Session alone = tiny.session();
    EXPECT_GT(max_difference(all_logits(alone, trace), full_logits(tiny, trace)), 0.05);
}

TEST(PrefixMemory, KeysBeforeRotationConfuseEqualTokens) {
    TinyModel tiny({.n_layer = 3});
    Traced traced(tiny, layout_of(tiny), PrefixKeys::kPre);
    auto trace = tiny_tokens(24, 2);
    trace[20] = trace[3];  // at layer 0, the same query at two places
    traced.follow(trace);
    Session session = using_prefix(tiny, {.documents = {traced.document()}});
    const double difference = max_difference(all_logits(session, trace), full_logits(tiny, trace));
    EXPECT_GT(difference, 1e-3);
}

TEST(PrefixMemory, IsTheSameForAnyNumberOfThreads) {
    std::vector<std::vector<float>> all;
    for (const int n_threads : {1, 2, 4}) {
        TinyModel tiny({.n_layer = 3}, n_threads);
        Traced traced(tiny, layout_of(tiny));
        for (uint32_t seed = 2; seed < 6; ++seed) traced.follow(tiny_tokens(30, seed));
        Session session = using_prefix(tiny, {.documents = {traced.document(40)}});
        all.push_back(all_logits(session, tiny_tokens(20, 9)));
    }
    EXPECT_EQ(all[0], all[1]);
    EXPECT_EQ(all[0], all[2]);
}

TEST(PrefixMemory, WorksOnTopOfEvictionAndFillsTheReport) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny));
    for (uint32_t seed = 2; seed < 5; ++seed) traced.follow(tiny_tokens(30, seed));
    const PrefixUse use = {.documents = {traced.document(16, PrefixStorage::kI8, false, 0.999F)}};
    for (const char* residue : {"none", "centroids"}) {
        EvictionOptions e = {.policy = "h2o", .residue = residue};
        e.budget = {.kind = Budget::Kind::kEntries, .count = 24, .share = 0};
        e.n_recent = 4;
        e.interval = 8;
        Session session = using_prefix(tiny, use, e, 16);
        session.feed(tiny_tokens(150, 7));
        for (const float x : session.logits()) ASSERT_TRUE(std::isfinite(x));
        const MemoryReport::Prefix r = session.memory().report().prefix;
        // The last layer is asked only where logits are wanted: in the last chunk.
        EXPECT_EQ(r.lookups, (150 + 6) * 4);
        int64_t in_histogram = 0;
        for (const int64_t n : r.similarity) in_histogram += n;
        EXPECT_EQ(in_histogram, r.lookups);
        EXPECT_GT(r.below_floor, 0);
        EXPECT_EQ(r.exact, 0);
        EXPECT_GT(r.mean_weight, 0);
        EXPECT_LT(r.mean_weight, 1);
        EXPECT_EQ(r.n_positions, kPrefix);
        EXPECT_GT(r.held_bytes, r.moved_bytes);
    }
}

/// Made contiguous behind a prefix, the next position can be the number of tokens read, as if
/// nothing had been turned.
TEST(PrefixMemory, EntriesHavePositionsOfTheirOwnBehindIt) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny));
    traced.follow(tiny_tokens(30, 2));
    constexpr int64_t kRead = 96;
    EvictionOptions e = {.policy = "window"};
    e.budget = {.kind = Budget::Kind::kEntries, .count = kRead - kPrefix, .share = 0};
    e.n_recent = 4;
    e.positions = Positions::kCompact;
    Session session = using_prefix(tiny, {.documents = {traced.document(16)}}, e, 16);
    const auto& memory = dynamic_cast<const KvCache&>(session.memory());
    session.feed(tiny_tokens(kRead, 7));
    EXPECT_EQ(memory.next_position(), kRead);
    session.feed(tiny_tokens(16, 8));
    for (int64_t h = 0; h < 2; ++h) {
        const std::vector<int32_t> at = memory.rotary(0, h);
        ASSERT_EQ(at.size(), memory.positions(0, h).size());
        EXPECT_EQ(at.back(), memory.next_position() - 1);
    }
}

TEST(PrefixMemory, AByteBudgetHoldsWithIt) {
    TinyModel tiny({.n_layer = 2});
    EvictionOptions e = {.policy = "h2o"};
    e.budget = {.kind = Budget::Kind::kBytes, .count = 400000, .share = 0};
    e.n_recent = 4;
    e.interval = 8;
    for (const int32_t n_kept : {0, kKept}) {
        Traced traced(tiny, layout_of(tiny), PrefixKeys::kPost, n_kept);
        traced.follow(tiny_tokens(30, 2));
        Session session = using_prefix(tiny, {.documents = {traced.document(8)}}, e, 16);
        session.feed(tiny_tokens(180, 7));
        EXPECT_LE(session.memory().report().peak_bytes, 400000U);
    }
}

TEST(PrefixMemory, TheGateReadsTheExactPrefix) {
    TinyModel tiny({.n_layer = 3}, 2);
    Traced traced(tiny, layout_of(tiny));
    traced.follow(tiny_tokens(30, 2));
    const auto asked = tiny_tokens(20, 8);
    const auto expected = full_logits(tiny, asked);
    // A floor that nothing reaches: every query reads the prefix itself.
    const auto document = traced.document(1, PrefixStorage::kF16, true, 1.5F);
    Session gated = using_prefix(tiny, {.documents = {document}, .has_gate = true});
    const double with_gate = max_difference(all_logits(gated, asked), expected);
    EXPECT_LT(with_gate, 1e-2);
    EXPECT_EQ(gated.memory().report().prefix.exact, gated.memory().report().prefix.lookups);
    Session open = using_prefix(tiny, {.documents = {document}});
    EXPECT_GT(max_difference(all_logits(open, asked), expected), 5 * with_gate);
}

TEST(PrefixMemory, TwoEqualDocumentsWeighAsOne) {
    TinyModel tiny({.n_layer = 2});
    for (const int32_t n_kept : {0, kKept}) {
        Traced traced(tiny, layout_of(tiny), PrefixKeys::kPost, n_kept);
        traced.follow(tiny_tokens(30, 2));
        const auto d = traced.document(12);
        const auto asked = tiny_tokens(20, 8);
        Session one = using_prefix(tiny, {.documents = {d}});
        Session two = using_prefix(tiny, {.documents = {d, d}});
        EXPECT_LT(max_difference(all_logits(one, asked), all_logits(two, asked)), 1e-4);
        const double weight = one.memory().report().prefix.mean_weight;
        EXPECT_GT(weight, 0.1);
        EXPECT_NEAR(two.memory().report().prefix.mean_weight, weight, 1e-4);
    }
}

/// A document of so many tokens that nobody attends to: `like` another one, but for its weights.
std::shared_ptr<const PrefixDocument> weightless(const std::shared_ptr<const PrefixDocument>& like,
                                                 int64_t n_tokens, std::vector<float>& lse) {
    PrefixHeader h = like->header();
    h.name = "weightless";
    h.tokens.resize(static_cast<size_t>(n_tokens));
    std::vector<PrefixLayer> layers = like->layers();
    lse.assign(layers.front().lse.data.size() / sizeof(float), -1e20F);
    for (PrefixLayer& l : layers) {
        l.lse.data = std::as_bytes(std::span(lse));
        l.kept_at = l.kept_k = l.kept_v = l.kept_start = l.exact_k = l.exact_v = {};
    }
    return std::make_shared<const PrefixDocument>(h, layers, like);
}

/// Beside a longer one a document stands further from the request's first position, and says what
/// it said: its entries, the whole of it behind the gate, and keys that were turned.
TEST(PrefixMemory, DocumentsOfSeveralLengthsEndTogether) {
    for (const char* family : {"llama", "gemma3"}) {
        for (const PrefixKeys keys : {PrefixKeys::kPre, PrefixKeys::kPost}) {
            for (const bool has_gate : {false, true}) {
                TinyModel tiny({.architecture = family, .n_layer = 4});
                Traced traced(tiny, layout_of(tiny), keys, kKept);
                traced.follow(tiny_tokens(30, 2));
                const auto d = traced.document(12, PrefixStorage::kF16, true, has_gate ? 1.5F : -2);
                std::vector<float> none;
                std::vector<float> none_either;
                const auto same = weightless(d, kPrefix, none);
                const auto longer = weightless(d, kPrefix + 37, none_either);
                const auto asked = tiny_tokens(20, 8);
                Session alike = using_prefix(tiny, {.documents = {d, same}, .has_gate = has_gate});
                Session apart =
                    using_prefix(tiny, {.documents = {d, longer}, .has_gate = has_gate});
                EXPECT_LT(max_difference(all_logits(alike, asked), all_logits(apart, asked)), 1e-3)
                    << family << has_gate;
            }
        }
    }
}

/// As many as there may be, each of another length, all keeping entries.
TEST(PrefixMemory, AsManyDocumentsAsThereMayBeFitIntoAGraph) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny), PrefixKeys::kPost, kKept);
    traced.follow(tiny_tokens(30, 2));
    const auto d = traced.document(12);
    std::vector<std::shared_ptr<const PrefixDocument>> all;
    for (int64_t i = 0; i < kMostPrefixes; ++i) {
        PrefixHeader h = d->header();
        h.tokens.resize(static_cast<size_t>(kPrefix + i));
        all.push_back(std::make_shared<const PrefixDocument>(h, d->layers(), d));
    }
    Session session = using_prefix(tiny, {.documents = all});
    for (const float x : all_logits(session, tiny_tokens(20, 8))) EXPECT_TRUE(std::isfinite(x));
}

TEST(PrefixMemory, GoesOnAfterSavingAndResetting) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny));
    traced.follow(tiny_tokens(30, 2));
    const PrefixUse use = {.documents = {traced.document(12)}};
    Session session = using_prefix(tiny, use);
    const auto asked = tiny_tokens(20, 8);
    const auto first = all_logits(session, asked);
    std::stringstream saved;
    session.memory().save(saved);
    auto copy = make_memory("kv", tiny.backend(), tiny.shape(),
                            {.n_ctx = 190, .entries = GGML_TYPE_F32, .prefix = use});
    copy->load(saved);
    Session other = tiny.session(std::move(copy));
    EXPECT_EQ(all_logits(session, tiny_tokens(5, 9)), all_logits(other, tiny_tokens(5, 9)));
    session.reset();
    EXPECT_EQ(all_logits(session, asked), first);
}

TEST(PrefixMemory, SessionsThatPartGoOnAsIfAlone) {
    TinyModel tiny({.n_layer = 2}, 2);
    Traced traced(tiny, layout_of(tiny));
    for (uint32_t seed = 2; seed < 6; ++seed) traced.follow(tiny_tokens(40, seed));
    const PrefixUse use = {.documents = {traced.document(0, PrefixStorage::kI8, false, -2, true)}};
    EvictionOptions evicting = {.policy = "h2o"};
    evicting.budget = {.kind = Budget::Kind::kEntries, .count = 24, .share = 0};
    evicting.n_recent = 4;
    evicting.interval = 8;
    for (const EvictionOptions& e : {EvictionOptions{}, evicting}) {
        const auto memory = [&] {
            return make_memory("kv", tiny.backend(), tiny.shape(),
                               {.n_ctx = 190,
                                .entries = GGML_TYPE_F32,
                                .eviction = e,
                                .supplies = {.n_chunk = 16},
                                .prefix = use});
        };
        // A request is read once and saved; two copies go different ways, side by side.
        Session first = using_prefix(tiny, use, e, 16);
        first.feed(tiny_tokens(60, 7));
        std::stringstream saved;
        first.memory().save(saved);
        const auto copy = [&] {
            auto m = memory();
            std::stringstream from(saved.str());
            m->load(from);
            return tiny.session(std::move(m), 16);
        };
        const std::vector<std::vector<TokenId>> ways = {tiny_tokens(9, 8), tiny_tokens(9, 9)};
        std::vector<std::vector<float>> alone;
        for (const auto& way : ways) {
            Session session = using_prefix(tiny, use, e, 16);
            session.feed(tiny_tokens(60, 7));
            for (const TokenId t : way) session.accept(t);
            alone.emplace_back(session.logits().begin(), session.logits().end());
        }
        Session one = copy();
        Session other = copy();
        Batch batch(tiny.model(), tiny.backend());
        const std::vector<Sequence*> both = {&one.sequence(), &other.sequence()};
        for (size_t i = 0; i < ways[0].size(); ++i) {
            for (size_t s = 0; s < 2; ++s) both[s]->accept(ways[s][i]);
            batch.run(both);
        }
        EXPECT_LT(max_difference(one.logits(), alone[0]), 1e-5);
        EXPECT_LT(max_difference(other.logits(), alone[1]), 1e-5);
        EXPECT_GT(max_difference(one.logits(), alone[1]), 1e-2);
    }
}

TEST(PrefixMemory, BehindALongRequestNoSlidingLayerLooksUp) {
    TinyModel tiny({.architecture = "gemma3", .n_layer = 4, .window = 8, .window_period = 2});
    Traced traced(tiny, layout_of(tiny));
    traced.follow(tiny_tokens(60, 2));
    for (const bool has_lists : {false, true}) {
        const PrefixUse use = {
            .documents = {traced.document(40, PrefixStorage::kI8, false, -2, has_lists)}};
        Session session = using_prefix(tiny, use);
        const auto lookups = [&] { return session.memory().report().prefix.lookups; };
        // Every position is asked for, so the last layer is too.
        all_logits(session, tiny_tokens(7, 3));
        EXPECT_EQ(lookups(), 7 * 4 * 4);  // its seven positions still see the prefix's last ones
        int64_t before = lookups();
        session.accept(1);
        EXPECT_EQ(lookups() - before, 2 * 4);  // the 8th sees itself and seven others of its own
        before = lookups();
        all_logits(session, tiny_tokens(30, 4));
        EXPECT_EQ(lookups() - before, 30 * 2 * 4);
    }
}

TEST(PrefixTrace, WhereAPrefixStandsDoesNotMatter) {
    for (const char* family : {"llama", "gemma3"}) {
        TinyModel tiny({.architecture = family, .n_layer = 3});
        const auto trace = tiny_tokens(20, 2);
        const auto follow = [&](int64_t first) {
            auto memory = std::make_unique<ExactPrefix>(tiny.backend(), tiny.shape(), GGML_TYPE_F32,
                                                        kPrefix, first);
            const ExactPrefix& prefix = *memory;
            Session reader(tiny.model(), tiny.backend(), std::move(memory));
            reader.feed(tiny_tokens(kPrefix));
            EXPECT_EQ(prefix.next_position(), first + kPrefix);
            Session session(tiny.model(), tiny.backend(),
                            std::make_unique<TraceMemory>(tiny.backend(), prefix, 200,
                                                          PrefixKeys::kPost, nullptr));
            return all_logits(session, trace);
        };
        const auto expected = full_logits(tiny, trace);
        EXPECT_LT(max_difference(follow(0), expected), 2e-5) << family;
        EXPECT_LT(max_difference(follow(33), expected), 1e-3) << family;
        EXPECT_LT(max_difference(follow(-25), expected), 1e-3) << family;
    }
}

TEST(PrefixMemory, ASlidingLayerLooksUpOnlyWhileItsWindowReaches) {
    TinyModel tiny({.architecture = "gemma3", .n_layer = 2, .window = 8, .window_period = 2});
    Traced traced(tiny, layout_of(tiny));
    const auto trace = tiny_tokens(30, 2);
    traced.follow(trace);
    Session session = using_prefix(tiny, {.documents = {traced.document()}});
    EXPECT_LT(max_difference(all_logits(session, trace), full_logits(tiny, trace)), 5e-3);
    const MemoryReport::Prefix r = session.memory().report().prefix;
    EXPECT_EQ(r.lookups, (30 + 7) * 4);
}

TEST(PrefixLookup, InListsGivesTheSameAnswersForAnyChunksAndThreads) {
    std::vector<std::vector<float>> all;
    for (const int n_threads : {1, 3}) {
        TinyModel tiny({.n_layer = 2}, n_threads);
        Traced traced(tiny, layout_of(tiny));
        for (uint32_t seed = 2; seed < 8; ++seed) traced.follow(tiny_tokens(50, seed));
        const auto d = traced.document(0, PrefixStorage::kI8, false, -2, true);
        ASSERT_TRUE(d->has_lists());
        EXPECT_GT(d->lists(0, 0).directions.n, kListsOpened);
        for (const int64_t n_chunk : {512, 3, 1}) {
            Session session = using_prefix(tiny, {.documents = {d}}, {}, n_chunk);
            all.push_back(all_logits(session, tiny_tokens(20, 9)));
            EXPECT_LT(max_difference(all.back(), all.front()), 1e-4) << n_chunk;
        }
        // Lookups that opened other lists would be off by far more.
        Session linear =
            using_prefix(tiny, {.documents = {traced.document(0, PrefixStorage::kI8)}}, {}, 512);
        EXPECT_LT(max_difference(all_logits(linear, tiny_tokens(20, 9)), all.front()), 2e-2);
    }
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(all[i], all[i + 3]);
}

TEST(PrefixLookup, WithFewListsIsTheLinearOne) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny));
    traced.follow(tiny_tokens(30, 2));
    const auto with = traced.document(10, PrefixStorage::kF16, false, -2, true);
    const auto without = traced.document(10);
    EXPECT_LE(with->lists(0, 0).directions.n, kListsOpened);
    Session a = using_prefix(tiny, {.documents = {with}});
    Session b = using_prefix(tiny, {.documents = {without}});
    EXPECT_EQ(all_logits(a, tiny_tokens(20, 9)), all_logits(b, tiny_tokens(20, 9)));
    EXPECT_GT(with->held_bytes(), without->held_bytes());
}

// ---- kept entries

TEST(PrefixKept, WhatIsSetApartIsStillAttendedTo) {
    TinyModel tiny({.n_layer = 3}, 2);
    Traced traced(tiny, layout_of(tiny), PrefixKeys::kPost, kKept);
    const auto trace = tiny_tokens(20, 2);
    const auto expected = full_logits(tiny, trace);
    EXPECT_LT(max_difference(traced.follow(trace), expected), 2e-5);
    EXPECT_LT(max_difference(traced.follow(trace, 3), expected), 2e-5);
}

TEST(PrefixKept, WithUnclusteredRecordsOfTheRestItIsTheFullPrefix) {
    for (const auto& [heads_per_key, architecture] :
         {std::pair(1, "llama"), {2, "llama"}, {1, "gemma3"}, {2, "gemma3"}}) {
        const bool slides = architecture == std::string("gemma3");  // in every second layer
        TinyModel tiny({.architecture = architecture, .n_layer = 4}, 2);
        Traced traced(tiny, layout_of(tiny, heads_per_key), PrefixKeys::kPost, kKept);
        const auto trace = tiny_tokens(24, 2);
        const auto expected = full_logits(tiny, trace);
        EXPECT_LT(max_difference(traced.follow(trace), expected), 2e-4);
        const auto document = traced.document();
        EXPECT_EQ(document->n_kept(0, 0), slides ? 0 : kKept);
        EXPECT_EQ(document->n_kept(3, 1), kKept + 1);
        for (const int64_t n_chunk : {512, 3, 1}) {
            Session session = using_prefix(tiny, {.documents = {document}}, {}, n_chunk);
            EXPECT_LT(max_difference(all_logits(session, trace), expected), 1e-2) << n_chunk;
        }
    }
}

/// The first n keys, or values, of a head of 32 channels.
std::vector<float> read_rows(EntryRows of, const std::byte* EntryRows::*part, int64_t n) {
    of.k = of.*part;
    std::vector<float> out(static_cast<size_t>(n) * 32);
    read_keys(of, 0, n, out.data());
    return out;
}

/// Are kept rows of one head those of `all` at their positions, but for a share of the row's
/// largest?
void expect_rows(std::span<const float> kept, std::span<const float> all,
                 std::span<const int32_t> positions, float share) {
    for (size_t i = 0; i < kept.size(); ++i) {
        const auto row = all.subspan(static_cast<size_t>(positions[i / 32]) * 32, 32);
        float most = 0;
        for (const float x : row) most = std::max(most, std::abs(x));
        EXPECT_NEAR(kept[i], row[i % 32], most * share);
    }
}

TEST(PrefixKept, RowsAreThePrefixsOwn) {
    for (const PrefixStorage storage : {PrefixStorage::kF16, PrefixStorage::kI8}) {
        TinyModel tiny({.n_layer = 2, .d_head = 32});
        Traced traced(tiny, layout_of(tiny), PrefixKeys::kPost, kKept);
        traced.follow(tiny_tokens(30, 2));
        const auto document = traced.document(8, storage);
        auto memory =
            std::make_unique<ExactPrefix>(tiny.backend(), tiny.shape(), GGML_TYPE_F16, kPrefix);
        const ExactPrefix& prefix = *memory;
        Session session(tiny.model(), tiny.backend(), std::move(memory));
        session.feed(tiny_tokens(kPrefix));
        const bool is_q8 = storage == PrefixStorage::kI8;
        EXPECT_EQ(document->kept(0, 0).type, is_q8 ? GGML_TYPE_Q8_0 : GGML_TYPE_F16);
        const auto positions = document->kept_positions();
        for (int64_t at = 0; at < std::ssize(positions); ++at) {
            const auto& of = positions[static_cast<size_t>(at)];
            for (const auto part : {&EntryRows::k, &EntryRows::v}) {
                expect_rows(read_rows(document->kept(at / 2, at % 2), part, std::ssize(of)),
                            read_rows(prefix.rows(at / 2, at % 2), part, kPrefix), of,
                            is_q8 ? 1.0F / 120 : 0.0F);
            }
        }
    }
}

TEST(PrefixKept, RoundedOnesAreNearTheFullPrefix) {
    TinyModel tiny({.n_layer = 3, .d_head = 32}, 2);
    Traced traced(tiny, layout_of(tiny), PrefixKeys::kPost, kKept);
    const auto trace = tiny_tokens(24, 2);
    traced.follow(trace);
    const auto document = traced.document(0, PrefixStorage::kI8);
    ASSERT_EQ(document->kept(0, 0).type, GGML_TYPE_Q8_0);
    for (const int64_t n_chunk : {512, 1}) {
        Session session = using_prefix(tiny, {.documents = {document}}, {}, n_chunk);
        EXPECT_LT(max_difference(all_logits(session, trace), full_logits(tiny, trace)), 0.15);
    }
}

TEST(PrefixKept, IsNotCountedTwiceWhereTheGateReadsThePrefix) {
    TinyModel tiny({.n_layer = 3}, 2);
    Traced traced(tiny, layout_of(tiny), PrefixKeys::kPost, kKept);
    traced.follow(tiny_tokens(30, 2));
    const auto asked = tiny_tokens(20, 8);
    const auto document = traced.document(1, PrefixStorage::kF16, true, 1.5F);
    Session gated = using_prefix(tiny, {.documents = {document}, .has_gate = true});
    EXPECT_LT(max_difference(all_logits(gated, asked), full_logits(tiny, asked)), 1e-2);
}

TEST(PrefixKept, AModelWithAWindowIsRefused) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny), PrefixKeys::kPost, kKept);
    traced.follow(tiny_tokens(30, 2));
    MemoryShape slides = tiny.shape();
    slides.windows = {0, 8};
    const auto all = traced.document(8);
    EXPECT_THROW(check_prefixes({.documents = {all}}, slides), Error);
    EXPECT_NO_THROW(check_prefixes({.documents = {all}}, tiny.shape()));
    // One layer keeps none: right for that model, and wrong for the other.
    std::vector<PrefixLayer> layers = all->layers();
    layers[1].kept_at = layers[1].kept_k = layers[1].kept_v = layers[1].kept_start = {};
    const auto some = std::make_shared<const PrefixDocument>(all->header(), layers, all);
    EXPECT_NO_THROW(check_prefixes({.documents = {some}}, slides));
    EXPECT_THROW(check_prefixes({.documents = {some}}, tiny.shape()), Error);
}

TEST(PrefixMemory, OneForOtherHeadsIsRefused) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny));
    traced.follow(tiny_tokens(30, 2));
    TinyModel wider({.n_layer = 3});
    EXPECT_THROW(using_prefix(wider, {.documents = {traced.document(4)}}), Error);
}

}  // namespace
}  // namespace palimpsest
