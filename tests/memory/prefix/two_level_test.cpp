// Entries in lists: what opening all of them gives, what opening some of them misses.

#include "memory/prefix/two_level.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "support/golden.h"

namespace palimpsest {
namespace {

constexpr int64_t kWidth = 24;

/// Rows around so many directions, as queries of one head are.
std::vector<float> crowds(int64_t n, int64_t n_crowds, uint64_t seed) {
    std::mt19937_64 random(seed);
    const auto next = [&] {
        return static_cast<float>(static_cast<double>(random() >> 11U) / 9007199254740992.0 * 2 -
                                  1);
    };
    std::mt19937_64 of_centre(1);
    std::vector<float> centres(static_cast<size_t>(n_crowds * kWidth));
    for (float& x : centres) x = static_cast<float>(of_centre() % 2001) / 1000.0F - 1;
    std::vector<float> rows;
    for (int64_t i = 0; i < n; ++i) {
        const auto at = random() % static_cast<uint64_t>(n_crowds) * kWidth;
        for (size_t c = 0; c < kWidth; ++c) rows.push_back(centres[at + c] + 0.5F * next());
    }
    return rows;
}

Codebook book_of(const std::vector<float>& queries, int64_t n_block = 1) {
    const auto n = std::ssize(queries) / kWidth;
    Codebook book = {.n_block = n_block, .d_head = kWidth / n_block, .queries = queries};
    book.outputs = queries;
    book.radius.resize(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t b = 0; b < n_block; ++b) {
            book.lse.push_back(queries[static_cast<size_t>(i * kWidth)]);
        }
        book.count.push_back(static_cast<int32_t>(i + 1));
    }
    return book;
}

/// A codebook in lists, ready to be asked.
struct Asked {
    explicit Asked(Codebook of, int n_threads = 1)
        : book(std::move(of)), made(put_in_lists(Backend(n_threads), book, 7)) {
        const auto rows = book.lookup_keys();
        tiles.resize(match_bytes(GGML_TYPE_I8, book.size(), kWidth));
        scale.resize(static_cast<size_t>(book.size()));
        to_tiles_i8(rows, kWidth, tiles, scale);
        list_tiles.resize(match_bytes(GGML_TYPE_F16, made.size(), kWidth));
        to_tiles(made.directions, kWidth, GGML_TYPE_F16, list_tiles);
    }

    [[nodiscard]] MatchKeys keys() const {
        return {.type = GGML_TYPE_I8,
                .tiles = tiles.data(),
                .scale = scale.data(),
                .n = book.size(),
                .d = kWidth};
    }
    [[nodiscard]] KeyLists lists() const {
        return {.directions = {.type = GGML_TYPE_F16,
                               .tiles = list_tiles.data(),
                               .n = made.size(),
                               .d = kWidth},
                .start = made.start};
    }
    [[nodiscard]] std::vector<Match> linear(const std::vector<float>& queries) const {
        std::vector<Match> best(queries.size() / kWidth);
        best_matches(keys(), queries.data(), kWidth, 0, keys().n_tiles(), best);
        return best;
    }
    [[nodiscard]] std::vector<Match> opened(const std::vector<float>& queries, int64_t n) const {
        std::vector<Match> best(queries.size() / kWidth);
        best_in_lists(keys(), lists(), queries.data(), kWidth, n, best);
        return best;
    }

    Codebook book;
    EntryLists made;
    std::vector<std::byte> tiles, list_tiles;
    std::vector<float> scale;
};

double share_of_same(const std::vector<Match>& a, const std::vector<Match>& b) {
    double same = 0;
    for (size_t i = 0; i < a.size(); ++i) same += a[i].index == b[i].index ? 1 : 0;
    return same / static_cast<double>(a.size());
}

TEST(TwoLevel, WithAllListsOpenItIsTheLinearLookup) {
    for (const int64_t n : {1, 20, 33, 700}) {
        const Asked asked(book_of(crowds(n, 12, 2)));
        const auto queries = crowds(40, 12, 3);
        const auto linear = asked.linear(queries);
        const auto all = asked.opened(queries, asked.made.size());
        for (size_t r = 0; r < linear.size(); ++r) {
            EXPECT_EQ(all[r].index, linear[r].index) << n;
            EXPECT_EQ(all[r].score, linear[r].score) << n;
        }
    }
}

TEST(TwoLevel, FindsNearlyAlwaysWhatTheLinearLookupFinds) {
    const Asked asked(book_of(crowds(2000, 60, 2)));
    const auto queries = crowds(1000, 60, 3);
    const auto linear = asked.linear(queries);
    EXPECT_GT(share_of_same(asked.opened(queries, kListsOpened), linear), 0.98);
    // It looks at few entries only: with one list open it misses some.
    const double one = share_of_same(asked.opened(queries, 1), linear);
    EXPECT_GT(one, 0.3);
    EXPECT_LT(one, 0.98);
}

TEST(TwoLevel, ListsHoldEveryEntryOnceAndNearestToTheirDirection) {
    const Codebook before = book_of(crowds(900, 30, 4));
    const Asked asked(before);
    const std::vector<int32_t>& start = asked.made.start;
    EXPECT_EQ(asked.made.size(), lists_for(900));
    EXPECT_EQ(start.front(), 0);
    EXPECT_EQ(start.back(), 900);
    for (size_t i = 1; i < start.size(); ++i) EXPECT_LT(start[i - 1], start[i]);
    // Every part of an entry moved with it.
    std::vector<bool> seen(900);
    for (size_t i = 0; i < 900; ++i) {
        const auto from = static_cast<size_t>(asked.book.count[i] - 1);
        EXPECT_FALSE(seen[from]);
        seen[from] = true;
        for (size_t c = 0; c < kWidth; ++c) {
            EXPECT_EQ(asked.book.queries[i * kWidth + c], before.queries[from * kWidth + c]);
            EXPECT_EQ(asked.book.outputs[i * kWidth + c], before.outputs[from * kWidth + c]);
        }
        EXPECT_EQ(asked.book.lse[i], before.lse[from]);
    }
    const auto unit = asked.book.directions();
    const auto cosine = [&](size_t list, size_t entry) {
        double sum = 0;
        for (size_t c = 0; c < kWidth; ++c) {
            sum +=
                double{asked.made.directions[list * kWidth + c]} * double{unit[entry * kWidth + c]};
        }
        return sum;
    };
    for (size_t list = 0; list + 1 < start.size(); ++list) {
        for (auto i = static_cast<size_t>(start[list]); i < static_cast<size_t>(start[list + 1]);
             ++i) {
            for (size_t other = 0; other + 1 < start.size(); ++other) {
                EXPECT_GE(cosine(list, i), cosine(other, i) - 1e-5);
            }
        }
    }
}

TEST(TwoLevel, IsTheSameForAnyNumberOfThreads) {
    const Asked one(book_of(crowds(900, 30, 4)), 1);
    const Asked three(book_of(crowds(900, 30, 4)), 3);
    EXPECT_EQ(one.made.start, three.made.start);
    EXPECT_EQ(one.made.directions, three.made.directions);
    EXPECT_EQ(one.book.count, three.book.count);
}

TEST(TwoLevel, WhitenedDirectionsAreComparedInWhitenedSpace) {
    StateRecords records = {.n_block = 2, .d_head = kWidth / 2};
    records.keys = crowds(1500, 40, 5);
    for (size_t i = 0; i < records.keys.size(); i += kWidth) {
        records.keys[i] = 30 * records.keys[i] + 5;  // one loud channel
    }
    records.outputs = records.keys;
    records.lse.resize(3000);
    const Asked asked(build_codebook(Backend(1), records, {.k = 600, .seed = 2, .whiten = true}));
    const auto linear = asked.linear(records.keys);
    EXPECT_GT(share_of_same(asked.opened(records.keys, kListsOpened), linear), 0.95);
}

TEST(TwoLevel, AQueryThatIsNoNumberFindsNothing) {
    const Asked asked(book_of(crowds(700, 12, 2)));
    const std::vector<float> query(static_cast<size_t>(kWidth), std::nanf(""));
    EXPECT_EQ(asked.opened(query, kListsOpened).front().index, -1);
}

TEST(TwoLevel, DirectionsThatAreNoNumbersDoNoHarm) {
    Asked asked(book_of(crowds(700, 12, 2)));
    std::vector<float> broken = asked.made.directions;
    for (size_t i = 0; i < broken.size(); i += 5) broken[i] = std::nanf("");
    to_tiles(broken, kWidth, GGML_TYPE_F16, asked.list_tiles);
    const Match m = asked.opened(crowds(1, 12, 3), kListsOpened).front();
    EXPECT_LT(m.index, 700);
}

}  // namespace
}  // namespace palimpsest
