#include "core/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "bench/tasks/word_list.h"
#include "core/text_hash.h"
#include "text/text_parts.h"

namespace palimpsest {
namespace {

TEST(Random, GivesTheKnownNumbersOfSplitMix64) {
    // The reference implementation's first outputs for seed 1234567.
    Random random(1234567);
    EXPECT_EQ(random.next(), 6457827717110365317ULL);
    EXPECT_EQ(random.next(), 3203168211198807973ULL);
}

TEST(Random, DrawsStayBelowTheirLimitAndReachIt) {
    Random random(1);
    std::set<int64_t> seen;
    for (int i = 0; i < 200; ++i) seen.insert(random.below(7));
    EXPECT_EQ(seen, (std::set<int64_t>{0, 1, 2, 3, 4, 5, 6}));
    EXPECT_EQ(random.below(1), 0);
    for (int i = 0; i < 100; ++i) {
        const double x = random.unit();
        EXPECT_GE(x, 0);
        EXPECT_LT(x, 1);
    }
}

TEST(Random, SamplesHoldNothingTwice) {
    Random random(3);
    for (const int64_t k : {0, 1, 5, 9, 10}) {
        const std::vector<int64_t> sample = random.sample(10, k);
        EXPECT_EQ(std::set<int64_t>(sample.begin(), sample.end()).size(), static_cast<size_t>(k));
        EXPECT_TRUE(std::ranges::all_of(sample, [](int64_t x) { return x >= 0 && x < 10; }));
    }
}

TEST(Random, ShufflesAllAndKeepsThem) {
    std::vector<int> items = {1, 2, 3, 4, 5, 6, 7, 8};
    const std::vector<int> before = items;
    Random(5).shuffle(items);
    EXPECT_NE(items, before);
    std::ranges::sort(items);
    EXPECT_EQ(items, before);
}

TEST(TextHash, IsFnv1a) {
    EXPECT_EQ(text_hash(""), 0xcbf29ce484222325ULL);
    EXPECT_EQ(text_hash("foobar"), 0x85944171f73967e8ULL);
    EXPECT_EQ(text_hash("bar", text_hash("foo")), text_hash("foobar"));
}

TEST(WordList, HoldsNoWordTwiceAndNoPairInsideAnother) {
    std::set<std::string_view> all;
    for (const auto* list : {&adjectives(), &nouns(), &verbs()}) {
        for (const std::string_view word : *list) EXPECT_TRUE(all.insert(word).second) << word;
    }
    for (const std::string_view a : adjectives()) {
        for (const std::string_view b : adjectives()) EXPECT_TRUE(a == b || !a.ends_with(b)) << a;
    }
    for (const std::string_view a : nouns()) {
        for (const std::string_view b : nouns()) EXPECT_TRUE(a == b || !a.starts_with(b)) << a;
    }
}

TEST(WordList, GoesOnWithPairsWhenWordsRunOut) {
    Random random(1);
    const std::vector<std::string> words = distinct_words(3000, random);
    EXPECT_EQ(words.size(), 3000U);
    EXPECT_EQ(std::set<std::string>(words.begin(), words.end()).size(), words.size());
    EXPECT_EQ(words.front().find('-'), std::string::npos);
    EXPECT_NE(words.back().find('-'), std::string::npos);
}

TEST(TextParts, CutsBehindWordsAndInsideLongRunsBetweenCharacters) {
    EXPECT_EQ(cut_points("ab  cd\ne"), (std::vector<size_t>{0, 4, 7, 8}));
    EXPECT_EQ(cut_points(""), (std::vector<size_t>{0}));
    std::string run;
    for (int i = 0; i < 40; ++i) run += "\xe4\xb8\xad";
    for (const size_t at : cut_points(run)) EXPECT_EQ(at % 3, 0U);
    EXPECT_GT(cut_points(run).size(), 3U);
}

}  // namespace
}  // namespace palimpsest
