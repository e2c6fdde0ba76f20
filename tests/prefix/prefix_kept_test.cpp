// Entries of a prefix that are kept beside its dictionaries: which, how many, and what is refused.

#include "prefix/prefix_kept.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "engine/rehearsal.h"
#include "prefix/prefix_mass.h"
#include "support/tiny_build.h"

namespace palimpsest {
namespace {

namespace fs = std::filesystem;

using testing::code_of;
using testing::TinyBuild;
using testing::TinyGemmaBuild;
using testing::WideTinyBuild;

TEST_F(TinyBuild, KeepsEntriesWithinItsBudget) {
    const PrefixText text = text_of(rules(12));
    const size_t budget = 30000;
    const PrefixBuild plain = build(text, {.budget_bytes = budget});
    const PrefixBuild kept = build(text, {.budget_bytes = budget, .kept_share = 0.5});
    for (const PrefixBuild* b : {&plain, &kept}) {
        EXPECT_LE(b->document->held_bytes(), budget);
        EXPECT_GT(b->document->held_bytes(), budget * 6 / 10);
    }
    EXPECT_FALSE(plain.document->keeps_entries());
    ASSERT_TRUE(kept.document->keeps_entries());
    size_t n_kept = 0;
    for (const auto& of : kept.document->kept_positions()) n_kept += of.size();
    EXPECT_GT(n_kept, 40U);  // of four heads
    EXPECT_LT(kept.document->header().k, plain.document->header().k);
    EXPECT_LT(kept.errors.e_out, 0.5);
    // By a number of entries: as many bytes again.
    const PrefixBuild by_number = build(text, {.k = 64, .kept_share = 0.5});
    EXPECT_EQ(by_number.document->header().k, 64);
    EXPECT_NEAR(static_cast<double>(by_number.document->held_bytes()),
                2.0 * static_cast<double>(build(text, {.k = 64}).document->held_bytes()), 4000);
}

TEST(PrefixMass, TheHeaviestComeInOrderAndEarlierOnesFirst) {
    const std::vector<std::vector<float>> mass = {{1, 5, 3, 5, 5}, {2, 0, 0, 9, 0}};
    const std::vector<std::vector<int32_t>> two = {{1, 3}, {0, 3}};
    EXPECT_EQ(heaviest(mass, 2), two);
}

TEST(PrefixMass, TheHeaviestOfAllComeFromAnyHead) {
    const std::vector<std::vector<float>> mass = {
        {1, 5, 3, 5, 4}, {2, 0, 0, 9, 0}, {1, 1, 1, 1, 1}};
    const std::vector<std::vector<int32_t>> three = {{1}, {3}, {0}};
    EXPECT_EQ(heaviest_of_all(mass, 3), three);
    EXPECT_EQ(heaviest_of_all(mass, 0), three);
    const std::vector<std::vector<int32_t>> six = {{1, 2, 3, 4}, {3}, {0}};
    EXPECT_EQ(heaviest_of_all(mass, 6), six);
    // However many are asked for, each head leaves its lightest.
    for (const auto& of : heaviest_of_all(mass, 100)) EXPECT_EQ(of.size(), 4U);
    const std::vector<std::vector<int32_t>> alone = {{0}};
    EXPECT_EQ(heaviest_of_all({{1, 1}}, 2), alone);
}

TEST_F(TinyBuild, ARepetitionIsAsLongAsTheWindowLeavesRoomFor) {
    const PrefixText text = text_of(rules(8));
    const auto& tokens = text.tokens();
    const auto all = repetitions(with(), tokens);
    std::vector<TokenId> repeated;
    for (const TraceTokens& t : all) {
        EXPECT_LE(std::ssize(t.tokens) + std::ssize(tokens), 400);
        repeated.insert(repeated.end(), t.tokens.begin(), t.tokens.end());
    }
    EXPECT_GT(repeated.size(), tokens.size());
    EXPECT_EQ(repeated.back(), tokens.back());
    const PrefixText full = text_of(rules(14));
    ASSERT_GT(std::ssize(full.tokens()), 340);
    ASSERT_LT(std::ssize(full.tokens()), 400);
    EXPECT_EQ(code_of([&] { (void)repetitions(with(), full.tokens()); }),
              ErrorCode::kInvalidArgument);
}

TEST_F(TinyBuild, ARepetitionAsksForItsPieceAndGivesIt) {
    const RehearsalTexts texts = {.first = {1, 2}, .later = {3}, .answer = {4}};
    std::vector<TokenId> read;
    for (TokenId t = 100; t < 130; ++t) read.push_back(t);
    using Tokens = std::vector<TokenId>;
    EXPECT_EQ(repetition(texts, read, 0, 3), (Tokens{1, 2, 4, 100, 101, 102}));
    EXPECT_EQ(repetition(texts, read, 3, 5), (Tokens{3, 100, 101, 102, 4, 103, 104}));
    EXPECT_EQ(repetition(texts, read, 28, 30),
              (Tokens{3, 120, 121, 122, 123, 124, 125, 126, 127, 4, 128, 129}));
    read[29] = -1;  // a ready row
    EXPECT_EQ(repetition(texts, read, 28, 30).back(), 128);
    EXPECT_LE(std::ssize(repetition(texts, read, 28, 30)), repetition_overhead(texts) + 2);
}

TEST_F(TinyBuild, WhatEntriesWereWeighedByIsUsedAgain) {
    const PrefixText text = text_of(rules(8));
    const testing::TemporaryFolder folder;
    int64_t n_weighed = 0;
    const auto kept_of = [&](double share, KeptBy by, int64_t n_held_out) {
        PrefixRuntime telling = with();
        telling.progress = [&](std::string_view phase, int64_t /*done*/, int64_t /*total*/) {
            n_weighed += phase == "weighing the prefix" ? 1 : 0;
            return true;
        };
        n_weighed = 0;
        PrefixBuildOptions o = {.name = "rules", .kept_share = share, .kept_by = by};
        o.budget_bytes = 20000;
        o.n_held_out = n_held_out;
        o.is_forced = true;
        o.work_folder = folder.path();
        return build_prefix(telling, text, requests(16), o).document->kept_positions();
    };
    const auto half = kept_of(0.5, KeptBy::kRepetition, 1);
    EXPECT_GT(n_weighed, 0);
    EXPECT_NE(kept_of(0.25, KeptBy::kRepetition, 1), half);
    EXPECT_EQ(n_weighed, 0);
    EXPECT_EQ(kept_of(0.5, KeptBy::kRepetition, 2), half);
    EXPECT_EQ(n_weighed, 0);
    // Held-out traces are not looked at: with another number of them others are.
    kept_of(0.5, KeptBy::kTraces, 1);
    EXPECT_EQ(n_weighed, 15);
    kept_of(0.5, KeptBy::kTraces, 2);
    EXPECT_EQ(n_weighed, 14);
    // A damaged file is as good as none.
    const fs::path file = fs::path(folder.path()) / "weights_by_repetition";
    fs::resize_file(file, fs::file_size(file) - 1);
    EXPECT_EQ(kept_of(0.5, KeptBy::kRepetition, 1), half);
    EXPECT_GT(n_weighed, 0);
}

TEST_F(TinyBuild, KeepsHalfWhereItCanAndNobodySaysAShare) {
    const PrefixText text = text_of(rules(8));
    const auto keeps = [&](PrefixBuildOptions o, const PrefixText& of) {
        o.kept_share = std::nullopt;
        return build(of, o).document->keeps_entries();
    };
    EXPECT_TRUE(keeps({.budget_bytes = 20000}, text));
    EXPECT_FALSE(keeps({.k = 8, .n_chunks = 2}, text));
    EXPECT_FALSE(keeps({.budget_bytes = 2500}, text)) << "too few bytes for an entry a head";
    const PrefixText full = text_of(rules(14));  // no room to repeat it
    EXPECT_FALSE(keeps({.budget_bytes = 20000}, full));
    EXPECT_TRUE(keeps({.budget_bytes = 20000, .kept_by = KeptBy::kTraces}, full));
    try {
        build(full, {.budget_bytes = 20000, .kept_share = 0.5});
        FAIL() << "there is no room";
    } catch (const Error& e) {
        EXPECT_NE(std::string(e.what()).find("--kept-by traces"), std::string::npos) << e.what();
    }
}

TEST_F(TinyBuild, KeepsWhatItsTracesAreTooFewForWithinItsBudget) {
    const PrefixText text = text_of(rules(8));
    const testing::TemporaryFolder folder;
    PrefixBuildOptions o = {.name = "rules", .budget_bytes = 40000, .kept_share = std::nullopt};
    o.work_folder = folder.path();
    const PrefixBuild b = build_prefix(with(), text, requests(5), o);
    EXPECT_TRUE(b.k_was_lowered);
    EXPECT_EQ(b.document->header().k, b.n_records / 8);
    EXPECT_LE(b.document->held_bytes(), o.budget_bytes);
    EXPECT_GT(b.document->held_bytes(), o.budget_bytes * 9 / 10);
}

TEST_F(WideTinyBuild, ItsCheckReadsEntriesAsTheyAreKept) {
    const PrefixText text = text_of(rules(8));
    const auto document = build(text, {.budget_bytes = 60000, .kept_share = 0.5}).document;
    ASSERT_EQ(document->kept(0, 0).type, GGML_TYPE_Q8_0);
    const ReadPrefix exact = read_prefix(with(), text);
    exact.exact->set_apart(document->kept_positions());
    std::vector<TraceTokens> traces;
    for (const TraceText& t : requests(4)) traces.push_back(text.trace(t));
    const auto error = [&](const std::shared_ptr<const PrefixDocument>& of) {
        return check_prefix(with(), *exact.exact, of, nullptr, traces).e_out;
    };
    std::vector<PrefixLayer> layers = document->layers();
    const std::vector<std::byte> nothing(layers[0].kept_v.data.size());
    layers[0].kept_v.data = nothing;
    const PrefixDocument other(document->header(), layers, document);
    EXPECT_GT(error(std::make_shared<const PrefixDocument>(other)), error(document) * 1.5);
}

TEST_F(TinyBuild, NoHeadKeepsTheWholePrefix) {
    const PrefixText text = text_of(rules(4));
    const PrefixBuild b = build(text, {.budget_bytes = 10'000'000, .kept_share = 0.9});
    for (const auto& of : b.document->kept_positions()) {
        EXPECT_EQ(std::ssize(of), std::ssize(text.tokens()) - 1);
    }
    EXPECT_LT(b.errors.e_out, 0.1);
}

TEST_F(TinyBuild, KeptEntriesMayBeChosenByTraces) {
    const PrefixText text = text_of(rules(8));
    const PrefixBuildOptions o = {.k = 32, .kept_share = 0.5};
    PrefixBuildOptions by_traces = o;
    by_traces.kept_by = KeptBy::kTraces;
    const auto one = build(text, o).document->kept_positions();
    const auto other = build(text, by_traces).document->kept_positions();
    ASSERT_EQ(one.size(), other.size());
    EXPECT_NE(one, other);
}

TEST_F(TinyBuild, AWrongShareForKeptEntriesIsRefused) {
    const PrefixText text = text_of(rules(8));
    EXPECT_THROW(build(text, {.k = 8, .kept_share = 1}), Error);
    EXPECT_THROW(build(text, {.k = 8, .kept_share = -0.1}), Error);
    EXPECT_THROW(build(text, {.budget_bytes = 20000, .kept_share = 1e-6}), Error);
    EXPECT_THROW(build(text, {.k = 8, .kept_share = 0.5, .n_chunks = 2}), Error);
}

TEST(PrefixMass, HeadsWithoutWeightsKeepNothing) {
    const std::vector<std::vector<int32_t>> three = {{}, {0, 1}, {2}};
    EXPECT_EQ(heaviest_of_all({{}, {5, 4, 0}, {1, 2, 3}}, 3), three);
    const std::vector<std::vector<int32_t>> one = {{}, {0}, {2}};
    EXPECT_EQ(heaviest({{}, {5, 4, 0}, {1, 2, 3}}, 1), one);
}

/// Where a window slides nothing is kept; the other layers share what there is, chosen either way.
TEST_F(TinyGemmaBuild, KeepsEntriesWhereNoWindowSlides) {
    const PrefixText text = text_of(rules(8));
    for (const KeptBy by : {KeptBy::kRepetition, KeptBy::kTraces}) {
        PrefixBuildOptions o = {.budget_bytes = 60000, .kept_share = 0.5};
        o.kept_by = by;
        const PrefixBuild b = build(text, o);
        EXPECT_FALSE(b.document->keeps_entries(0));
        EXPECT_TRUE(b.document->keeps_entries(1));
        EXPECT_EQ(b.document->n_kept(0, 0), 0);
        EXPECT_GT(b.document->n_kept(1, 0), 4);
        EXPECT_LE(b.document->held_bytes(), o.budget_bytes);
        EXPECT_GT(b.document->held_bytes(), o.budget_bytes * 8 / 10);
    }
    // All but one entry: what is left for the dictionary weighs next to nothing.
    const PrefixBuild most = build(text, {.budget_bytes = 10'000'000, .kept_share = 0.9});
    for (const size_t layer : {1U, 3U}) EXPECT_LT(most.errors.layers[layer].e_out, 1e-2);
    EXPECT_TRUE(
        build(text, {.budget_bytes = 60000, .kept_share = std::nullopt}).document->keeps_entries());
}

}  // namespace
}  // namespace palimpsest
