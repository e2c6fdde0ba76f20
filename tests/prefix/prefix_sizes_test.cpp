// How many entries a memory has: what its budget holds, and what its traces can fill.

#include "prefix/prefix_sizes.h"

#include <gtest/gtest.h>

#include <optional>

#include "core/error.h"
#include "memory/prefix/prefix_file.h"

namespace palimpsest {
namespace {

constexpr size_t kBudget = 1'000'000;

/// Two layers of two KV heads of 64 channels, 8,000 tokens.
PrefixHeader header() {
    PrefixHeader h;
    h.n_layer = 2;
    h.layout = {.n_head = 4, .n_head_kv = 2, .d_head = 64, .heads_per_key = 1, .is_shared = false};
    h.tokens.resize(8000);
    return h;
}

size_t held(const PrefixSizes& of, const PrefixHeader& h = header()) {
    return prefix_dictionary_bytes(h.layout, h.n_layer, of.k, PrefixStorage::kI8) +
           prefix_kept_bytes(h.layout, h.n_layer, of.n_kept, PrefixStorage::kI8);
}

PrefixSizes choose(const PrefixBuildOptions& o, int64_t n_records, double kept_share) {
    return choose_sizes(o, header(),
                        {.cache_bytes = 4 * kBudget,
                         .n_records = n_records,
                         .kept_share = kept_share,
                         .n_keeping = 2});
}

TEST(PrefixSizes, ABudgetIsFilledAndDividedByTheShare) {
    const PrefixSizes alone = choose({.budget_bytes = kBudget}, 1'000'000, 0);
    EXPECT_EQ(alone.n_kept, 0);
    const PrefixSizes half =
        choose({.budget_bytes = kBudget, .kept_share = std::nullopt}, 1'000'000, 0.5);
    EXPECT_NEAR(static_cast<double>(half.k), static_cast<double>(alone.k) / 2, 33);
    for (const PrefixSizes& of : {alone, half}) {
        EXPECT_FALSE(of.k_was_lowered);
        EXPECT_LE(held(of), kBudget);
        EXPECT_GT(held(of), kBudget * 9 / 10);
    }
    // A quarter of the cache where no budget is given.
    EXPECT_EQ(choose({}, 1'000'000, 0).k, alone.k);
}

TEST(PrefixSizes, KeptEntriesGetWhatTheRecordsAreTooFewFor) {
    const PrefixBuildOptions o = {.budget_bytes = kBudget, .kept_share = std::nullopt};
    const PrefixSizes many = choose(o, 1'000'000, 0.5);
    const PrefixSizes few = choose(o, 800, 0.5);
    EXPECT_EQ(few.k, 100);
    EXPECT_TRUE(few.k_was_lowered);
    EXPECT_GT(few.n_kept, many.n_kept * 3 / 2);
    EXPECT_LE(held(few), kBudget);
    EXPECT_GT(held(few), kBudget * 9 / 10);
    // Up to all of the prefix but one entry a head.
    const PrefixSizes all =
        choose({.budget_bytes = 100 * kBudget, .kept_share = std::nullopt}, 800, 0.5);
    EXPECT_EQ(all.n_kept, 4 * 7999);
    // A share that somebody asked for is that share.
    PrefixBuildOptions asked;
    asked.kept_share = 0.5;
    EXPECT_EQ(choose(asked, 800, 0.5).n_kept, many.n_kept);
    EXPECT_TRUE(choose(asked, 800, 0.5).k_was_lowered);
}

TEST(PrefixSizes, WhatRecordsCannotFillIsRefusedWhereNothingElseIsKept) {
    const auto refuses = [](const PrefixBuildOptions& o, double share) {
        EXPECT_THROW(choose(o, 800, share), Error);
        PrefixBuildOptions forced = o;
        forced.is_forced = true;
        EXPECT_GT(choose(forced, 800, share).k, 100);
        EXPECT_FALSE(choose(forced, 800, share).k_was_lowered);
    };
    refuses({.budget_bytes = kBudget}, 0);
    refuses({.budget_bytes = kBudget, .kept_share = 0.5}, 0.5);
    refuses({.k = 101, .kept_share = std::nullopt}, 0.5);
    refuses({.budget_bytes = kBudget, .kept_share = std::nullopt}, 0);  // it can keep none
    EXPECT_EQ(choose({.k = 100}, 800, 0).k, 100);
    EXPECT_EQ(choose({}, 800, 0).k, 100) << "nobody asked for more";
    EXPECT_THROW(choose({.budget_bytes = 100}, 800, 0), Error);
}

}  // namespace
}  // namespace palimpsest
