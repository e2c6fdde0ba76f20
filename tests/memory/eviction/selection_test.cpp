// Which entries stay, given scores.

#include "memory/eviction/selection.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "memory/budget.h"
#include "support/golden.h"

namespace palimpsest {
namespace {

std::vector<int32_t> positions_to(int64_t n) {
    std::vector<int32_t> all(static_cast<size_t>(n));
    std::iota(all.begin(), all.end(), 0);
    return all;
}

TEST(Selection, MatchesGoldenTables) {
    REQUIRE_ORACLES();
    const auto json = testing::read_json(*oracle_folder / "learned" / "primitives.json");
    for (const auto& c : json["select"]) {
        std::vector<float> scores;
        for (const auto& x : c["importance"]) {
            scores.push_back(x.is_string() ? std::nanf("") : x.get<float>());
        }
        const auto positions = positions_to(std::ssize(scores));
        const Protection protection = {.n_sink = c["sinks"], .n_recent = c["recent"]};
        const auto marks = protection.mark(positions, std::ssize(scores));
        EXPECT_EQ(select_entries({.scores = scores,
                                  .positions = positions,
                                  .is_protected = marks,
                                  .n_sink = protection.n_sink},
                                 c["n"]),
                  c["kept_rows"].get<std::vector<int32_t>>())
            << c;
    }
    for (const auto& c : json["budget"]) {
        EXPECT_EQ(kept_of(c["L"], c["r"]), c["n_kept"].get<int64_t>()) << c;
    }
}

TEST(Selection, KeepsWholeRunsOnly) {
    // Runs of four positions; the second is best, the third next, but only six entries fit.
    const std::vector<float> scores = {1, 1, 1, 1, 9, 9, 9, 9, 5, 5, 5, 5};
    const auto positions = positions_to(12);
    const std::vector<uint8_t> none(12);
    EXPECT_EQ(
        select_entries(
            {.scores = scores, .positions = positions, .is_protected = none, .run_length = 4}, 6),
        (std::vector<int32_t>{4, 5, 6, 7}));
}

TEST(Selection, ProtectsSinksRecentAndPinnedSpans) {
    const Protection protection = {.n_sink = 2, .n_recent = 3, .pinned = {{4, 6}, {8, 9}}};
    const auto marks = protection.mark(positions_to(12), 12);
    EXPECT_EQ(marks, (std::vector<uint8_t>{1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 1, 1}));
    EXPECT_EQ(protection.count(12), 8);
    // Spans that the sinks or the recent window cover count once.
    EXPECT_EQ((Protection{.n_sink = 2, .n_recent = 3, .pinned = {{0, 3}, {8, 12}}}.count(12)), 7);
}

TEST(Selection, ComplementIsWhatIsLeft) {
    EXPECT_EQ(complement(std::vector<int32_t>{1, 2, 5}, 7), (std::vector<int32_t>{0, 3, 4, 6}));
}

}  // namespace
}  // namespace palimpsest
