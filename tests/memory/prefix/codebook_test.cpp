#include "memory/prefix/codebook.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "memory/kernels/attention_state.h"
#include "memory/kernels/k_means.h"
#include "memory/kernels/match_kernel.h"
#include "support/golden.h"

namespace palimpsest {
namespace {

std::vector<float> noise(size_t n, uint64_t seed) {
    std::mt19937_64 random(seed);
    std::vector<float> x(n);
    for (float& v : x) {
        v = static_cast<float>(static_cast<double>(random() >> 11U) / 9007199254740992.0 * 2 - 1);
    }
    return x;
}

StateRecords some_records(int64_t n, int64_t n_block, int64_t d, uint64_t seed) {
    const auto width = static_cast<size_t>(n_block * d);
    StateRecords r = {.n_block = n_block, .d_head = d};
    r.keys = noise(static_cast<size_t>(n) * width, seed);
    r.outputs = noise(static_cast<size_t>(n) * width, seed + 1);
    r.lse = noise(static_cast<size_t>(n * n_block), seed + 2);
    for (float& l : r.lse) l = 5 + 4 * l;
    return r;
}

/// Attention of one query over keys and values, all in double.
void attend(std::span<const float> q, std::span<const float> k, std::span<const float> v,
            std::span<float> out, float& lse) {
    const size_t d = q.size();
    const size_t n = k.size() / d;
    std::vector<double> sum(d);
    double z = 0;
    for (size_t j = 0; j < n; ++j) {
        double s = 0;
        for (size_t c = 0; c < d; ++c) s += double{q[c]} * double{k[j * d + c]};
        const double e = std::exp(s);
        z += e;
        for (size_t c = 0; c < d; ++c) sum[c] += e * double{v[j * d + c]};
    }
    for (size_t c = 0; c < d; ++c) out[c] = static_cast<float>(sum[c] / z);
    lse = static_cast<float>(std::log(z));
}

TEST(AttentionState, TwoBlocksJoinIntoTheWhole) {
    const size_t d = 16;
    const auto q = noise(d, 1);
    const auto k = noise(40 * d, 2);
    const auto v = noise(40 * d, 3);
    std::vector<float> whole(d);
    std::vector<float> first(d);
    std::vector<float> second(d);
    float l = 0;
    float l1 = 0;
    float l2 = 0;
    attend(q, k, v, whole, l);
    attend(q, std::span(k).first(13 * d), std::span(v).first(13 * d), first, l1);
    attend(q, std::span(k).subspan(13 * d), std::span(v).subspan(13 * d), second, l2);
    const float joined = join_state(first, l1, second, l2);
    EXPECT_NEAR(joined, l, 1e-6);
    EXPECT_LT(testing::max_difference(first, whole), 1e-6);
}

TEST(AttentionState, AnEmptySidePassesThrough) {
    const std::vector<float> nothing = {std::nanf(""), std::nanf("")};
    std::vector<float> own = {1, 2};
    EXPECT_EQ(join_state(own, 3, nothing, kEmptyState), 3);
    EXPECT_EQ(own, (std::vector<float>{1, 2}));
    std::vector<float> empty = {std::nanf(""), std::nanf("")};
    EXPECT_EQ(join_state(empty, kEmptyState, own, 3), 3);
    EXPECT_EQ(empty, own);
    EXPECT_EQ(join_state(empty, kEmptyState, nothing, kEmptyState), kEmptyState);
}

/// The best key by a plain loop in double.
Match plain_best(std::span<const float> keys, std::span<const float> q) {
    Match best;
    const size_t d = q.size();
    double most = -HUGE_VAL;
    for (size_t i = 0; i < keys.size() / d; ++i) {
        double s = 0;
        for (size_t c = 0; c < d; ++c) s += double{q[c]} * double{keys[i * d + c]};
        if (s > most) {
            most = s;
            best = {.index = static_cast<int64_t>(i), .score = static_cast<float>(s)};
        }
    }
    return best;
}

std::vector<Match> matched(const std::vector<float>& keys, int64_t d, ggml_type type,
                           const std::vector<float>& queries, int64_t split) {
    const int64_t n = std::ssize(keys) / d;
    std::vector<std::byte> tiles(match_bytes(type, n, d));
    std::vector<float> scale(static_cast<size_t>(n), 1.0F);
    if (type == GGML_TYPE_I8) {
        to_tiles_i8(keys, d, tiles, scale);
    } else {
        to_tiles(keys, d, type, tiles);
    }
    const MatchKeys of = {.type = type,
                          .tiles = tiles.data(),
                          .scale = scale.data(),
                          .bias = nullptr,
                          .n = n,
                          .d = d};
    std::vector<Match> best(queries.size() / static_cast<size_t>(d));
    for (int64_t t = 0; t < of.n_tiles(); t += split) {
        best_matches(of, queries.data(), d, t, std::min(of.n_tiles(), t + split), best);
    }
    return best;
}

/// 13 queries against n keys of width d: as plain loops say, whatever the division of the work.
void expect_best_matches(int64_t d, int64_t n, ggml_type type) {
    const auto keys = noise(static_cast<size_t>(n * d), 4);
    const auto queries = noise(static_cast<size_t>(13 * d), 5);
    const auto best = matched(keys, d, type, queries, 1000);
    const auto parts = matched(keys, d, type, queries, 2);
    for (size_t r = 0; r < best.size(); ++r) {
        const auto width = static_cast<size_t>(d);
        const Match plain = plain_best(keys, std::span(queries).subspan(r * width, width));
        const double near = type == GGML_TYPE_I8 ? 0.08 : 6e-3;
        EXPECT_NEAR(best[r].score, plain.score, near);
        EXPECT_TRUE(type != GGML_TYPE_F32 || best[r].index == plain.index);
        EXPECT_EQ(best[r].index, parts[r].index);
        EXPECT_EQ(best[r].score, parts[r].score);
    }
}

TEST(MatchKernel, FindsTheBestKeyInEveryTypeAndDivision) {
    for (const int64_t d : {8, 64, 192}) {
        for (const int64_t n : {1, 31, 32, 33, 200}) {
            for (const ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_I8}) {
                expect_best_matches(d, n, type);
            }
        }
    }
}

TEST(MatchKernel, TakesTheFirstOfEquals) {
    const int64_t d = 16;
    auto keys = noise(static_cast<size_t>(100 * d), 6);
    for (int64_t c = 0; c < d; ++c) {
        keys[static_cast<size_t>(7 * d + c)] = 2;
        keys[static_cast<size_t>(70 * d + c)] = 2;
    }
    const std::vector<float> query(static_cast<size_t>(d), 1.0F);
    EXPECT_EQ(matched(keys, d, GGML_TYPE_F32, query, 1000).front().index, 7);
}

TEST(KMeans, DividesAsAPlainLoopWould) {
    const Backend backend(2);
    const int64_t d = 8;
    const auto points = noise(500 * static_cast<size_t>(d), 7);
    const Clustering c = k_means(backend, points, d, {.k = 20, .seed = 3});
    ASSERT_EQ(c.centroids.size(), static_cast<size_t>(20 * d));
    for (size_t i = 0; i < 500; ++i) {
        double least = HUGE_VAL;
        int32_t nearest = -1;
        for (int32_t j = 0; j < 20; ++j) {
            double sum = 0;
            for (size_t k = 0; k < 8; ++k) {
                const double diff =
                    double{points[i * 8 + k]} - double{c.centroids[static_cast<size_t>(j) * 8 + k]};
                sum += diff * diff;
            }
            if (sum < least - 1e-6) {
                least = sum;
                nearest = j;
            }
        }
        EXPECT_EQ(c.nearest[i], nearest);
    }
}

TEST(KMeans, IsTheSameForAnyNumberOfThreads) {
    const auto points = noise(48000, 8);
    const Clustering one = k_means(Backend(1), points, 24, {.k = 50, .seed = 9});
    const Clustering four = k_means(Backend(4), points, 24, {.k = 50, .seed = 9});
    EXPECT_EQ(one.centroids, four.centroids);
    EXPECT_EQ(one.nearest, four.nearest);
}

TEST(KMeans, HasNoMoreClustersThanDistinctPoints) {
    std::vector<float> points;
    for (int i = 0; i < 30; ++i) {
        for (int c = 0; c < 8; ++c) points.push_back(static_cast<float>(i % 3));
    }
    const Clustering c = k_means(Backend(1), points, 8, {.k = 10});
    EXPECT_EQ(c.centroids.size(), 24U);
}

TEST(KMeans, AThinnedRunStillDividesAllPoints) {
    const auto points = noise(8000, 10);
    const Clustering c = k_means(Backend(2), points, 8, {.k = 10, .most_points = 200});
    ASSERT_EQ(c.nearest.size(), 1000U);
    EXPECT_EQ(std::ranges::count(c.nearest, -1), 0);
}

TEST(Codebook, OneEntryIsTheMeanOverAll) {
    const StateRecords r = some_records(300, 2, 8, 11);
    const Codebook book = build_codebook(Backend(1), r, {.k = 1});
    ASSERT_EQ(book.size(), 1);
    for (size_t b = 0; b < 2; ++b) {
        double z = 0;
        std::vector<double> a(8);
        for (size_t i = 0; i < 300; ++i) {
            const double e = std::exp(double{r.lse[i * 2 + b]});
            z += e;
            for (size_t c = 0; c < 8; ++c) a[c] += e * double{r.outputs[i * 16 + b * 8 + c]};
        }
        EXPECT_NEAR(book.lse[b], std::log(z / 300), 1e-5);
        for (size_t c = 0; c < 8; ++c) EXPECT_NEAR(book.outputs[b * 8 + c], a[c] / z, 1e-6);
    }
    EXPECT_EQ(book.count.front(), 300);
}

TEST(Codebook, TheOrderOfRecordsDoesNotMatter) {
    const StateRecords r = some_records(200, 1, 8, 12);
    StateRecords turned = r;
    for (size_t i = 0; i < 200; ++i) {
        std::copy_n(r.outputs.begin() + static_cast<long>(i * 8), 8,
                    turned.outputs.end() - static_cast<long>((i + 1) * 8));
        std::copy_n(r.keys.begin() + static_cast<long>(i * 8), 8,
                    turned.keys.end() - static_cast<long>((i + 1) * 8));
        turned.lse[199 - i] = r.lse[i];
    }
    // The same clusters, whatever order they are numbered in: every point its own.
    StateMoments one(4, 1, 8);
    StateMoments other(4, 1, 8);
    for (int64_t i = 0; i < 200; ++i) {
        const auto at = [](const std::vector<float>& of, int64_t j) {
            return std::span(of).subspan(static_cast<size_t>(j * 8), 8);
        };
        one.add(i % 4, at(r.keys, i), at(r.outputs, i),
                std::span(r.lse).subspan(static_cast<size_t>(i), 1));
        other.add((199 - i) % 4, at(turned.keys, i), at(turned.outputs, i),
                  std::span(turned.lse).subspan(static_cast<size_t>(i), 1));
    }
    for (int64_t j = 0; j < 4; ++j) {
        std::vector<float> a(17);
        std::vector<float> b(17);
        const auto finish = [&](const StateMoments& m, std::vector<float>& to) {
            m.finish(j, Aggregation::kWeighted, std::span(to).first(8), std::span(to).subspan(8, 8),
                     std::span(to).last(1));
        };
        finish(one, a);
        finish(other, b);
        EXPECT_LT(testing::max_difference(a, b), 1e-6);
    }
}

constexpr size_t kGroups = 5;
constexpr int kEach = 48;  // records
constexpr size_t kWidth = 8;

/// 240 records that there is one way to divide well: number i into group i % kGroups.
StateRecords grouped_records() {
    StateRecords r = some_records(240, 1, kWidth, 21);
    for (size_t i = 0; i < 240; ++i) {
        for (size_t c = 0; c < kWidth; ++c) {
            float& x = r.keys[i * kWidth + c];
            x = 0.05F * x + (c == i % kGroups ? 3.0F : 0.0F);
        }
    }
    return r;
}

/// The entry whose key has its largest channel at `group`.
size_t entry_of(const Codebook& book, size_t group) {
    for (size_t i = 0; i < static_cast<size_t>(book.size()); ++i) {
        if (book.queries[i * kWidth + group] > 1.5F) return i;
    }
    ADD_FAILURE() << "no entry stands for group " << group;
    return 0;
}

/// Clusters are found on some of the records, and stand for all of them (Eq. 5).
TEST(Codebook, AThinnedRunStillHasTheMomentsOfAllRecords) {
    const StateRecords r = grouped_records();
    const Codebook book =
        build_codebook(Backend(1), r, {.k = kGroups, .seed = 3, .most_points = 60});
    ASSERT_EQ(book.size(), static_cast<int64_t>(kGroups));
    for (size_t group = 0; group < kGroups; ++group) {
        double z = 0;
        std::vector<double> a(kWidth);
        std::vector<double> q(kWidth);
        for (size_t i = group; i < 240; i += kGroups) {
            const double e = std::exp(double{r.lse[i]});
            z += e;
            for (size_t c = 0; c < kWidth; ++c) {
                a[c] += e * double{r.outputs[i * kWidth + c]};
                q[c] += double{r.keys[i * kWidth + c]} / kEach;
            }
        }
        const size_t at = entry_of(book, group);
        EXPECT_EQ(book.count[at], kEach);
        EXPECT_NEAR(book.lse[at], std::log(z / kEach), 1e-5);
        for (size_t c = 0; c < kWidth; ++c) {
            EXPECT_NEAR(book.outputs[at * kWidth + c], a[c] / z, 1e-5);
            EXPECT_NEAR(book.queries[at * kWidth + c], q[c], 1e-5);
        }
    }
}

/// Where there is one way to divide them well, records come to the same dictionary in any order.
TEST(Codebook, ClustersAreTheSameForRecordsInAnyOrder) {
    const StateRecords r = grouped_records();
    StateRecords shuffled = r;
    for (size_t i = 0; i < 240; ++i) {
        const size_t to = i * 77 % 240;  // 77 and 240 have no common divisor
        const auto move = [&](const std::vector<float>& from, std::vector<float>& into, size_t n) {
            std::copy_n(from.begin() + static_cast<long>(i * n), n,
                        into.begin() + static_cast<long>(to * n));
        };
        move(r.keys, shuffled.keys, kWidth);
        move(r.outputs, shuffled.outputs, kWidth);
        move(r.lse, shuffled.lse, 1);
    }
    const CodebookOptions options = {.k = kGroups, .seed = 3};
    const Codebook a = build_codebook(Backend(1), r, options);
    const Codebook b = build_codebook(Backend(1), shuffled, options);
    ASSERT_EQ(a.size(), static_cast<int64_t>(kGroups));
    ASSERT_EQ(b.size(), a.size());
    const auto row = [&](const std::vector<float>& of, size_t i) {
        return std::vector<float>(of.begin() + static_cast<long>(i * kWidth),
                                  of.begin() + static_cast<long>((i + 1) * kWidth));
    };
    for (size_t group = 0; group < kGroups; ++group) {
        const size_t i = entry_of(a, group);
        const size_t same = entry_of(b, group);
        EXPECT_LT(testing::max_difference(row(a.queries, i), row(b.queries, same)), 1e-6);
        EXPECT_LT(testing::max_difference(row(a.outputs, i), row(b.outputs, same)), 1e-6);
        EXPECT_NEAR(a.lse[i], b.lse[same], 1e-5);
        EXPECT_EQ(a.count[i], b.count[same]);
        EXPECT_EQ(a.count[i], kEach);
    }
}

TEST(Codebook, MomentsInPiecesEqualTheWhole) {
    // Records whose weights rise and fall by far more than f32 spans.
    StateRecords r = some_records(64, 1, 8, 13);
    for (size_t i = 0; i < 64; ++i) r.lse[i] = static_cast<float>(i % 7) * 40 - 100;
    const Codebook book = build_codebook(Backend(1), r, {.k = 1});
    double peak = -HUGE_VAL;
    for (const float l : r.lse) peak = std::max(peak, double{l});
    double z = 0;
    double a = 0;
    for (size_t i = 0; i < 64; ++i) {
        z += std::exp(double{r.lse[i]} - peak);
        a += std::exp(double{r.lse[i]} - peak) * double{r.outputs[i * 8]};
    }
    EXPECT_NEAR(book.lse.front(), peak + std::log(z / 64), 1e-4);
    EXPECT_NEAR(book.outputs.front(), a / z, 1e-6);
}

TEST(Codebook, ACommonRotationOfAllQueriesChangesNothing) {
    const StateRecords r = some_records(400, 1, 8, 14);
    StateRecords turned = r;
    for (size_t i = 0; i < 400; ++i) {
        for (size_t c = 0; c < 8; c += 2) {
            const float angle = 0.3F * static_cast<float>(c + 1);
            const float x = r.keys[i * 8 + c];
            const float y = r.keys[i * 8 + c + 1];
            turned.keys[i * 8 + c] = std::cos(angle) * x - std::sin(angle) * y;
            turned.keys[i * 8 + c + 1] = std::sin(angle) * x + std::cos(angle) * y;
        }
    }
    const CodebookOptions options = {.k = 16, .seed = 5};
    const Codebook a = build_codebook(Backend(1), r, options);
    const Codebook b = build_codebook(Backend(1), turned, options);
    EXPECT_EQ(a.count, b.count);
    EXPECT_LT(testing::max_difference(a.outputs, b.outputs), 1e-5);
    // And every query, turned like them, finds the entry that it found.
    const auto most_alike = [](const Codebook& book, const float* query) {
        std::pair<double, size_t> best = {-2, 0};
        for (size_t i = 0; i < static_cast<size_t>(book.size()); ++i) {
            double product = 0;
            double squares = 0;
            for (size_t c = 0; c < 8; ++c) {
                const double x = double{book.queries[i * 8 + c]};
                product += x * double{query[c]};
                squares += x * x;
            }
            best = std::max(best, {product / std::sqrt(squares), i});
        }
        return best.second;
    };
    for (size_t i = 0; i < 400; ++i) {
        EXPECT_EQ(most_alike(a, r.keys.data() + i * 8), most_alike(b, turned.keys.data() + i * 8));
    }
}

TEST(Codebook, WhitenedKeysGiveTheCosineOfWhitenedQueries) {
    StateRecords r = some_records(500, 2, 8, 15);
    for (size_t i = 0; i < r.keys.size(); i += 16)
        r.keys[i] = 30 * r.keys[i] + 5;  // one loud channel
    const Codebook book = build_codebook(Backend(1), r, {.k = 12, .seed = 2, .whiten = true});
    ASSERT_EQ(book.whitening.size(), 2U);
    const std::vector<float> keys = book.lookup_keys();
    const auto whitened = [&](std::span<const float> x) {
        std::vector<float> out(16);
        for (size_t b = 0; b < 2; ++b) {
            multiply(book.whitening[b].root, x.subspan(b * 8, 8), std::span(out).subspan(b * 8, 8));
        }
        return out;
    };
    const auto norm = [](const std::vector<float>& x) {
        return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0));
    };
    const auto q = std::span(r.keys).first(16);
    const auto wq = whitened(q);
    for (int64_t i = 0; i < book.size(); ++i) {
        const auto at = static_cast<size_t>(i * 16);
        const auto wc = whitened(std::span(book.queries).subspan(at, 16));
        const double cosine =
            std::inner_product(wq.begin(), wq.end(), wc.begin(), 0.0) / norm(wq) / norm(wc);
        const double product =
            std::inner_product(q.begin(), q.end(), keys.begin() + static_cast<long>(at), 0.0);
        EXPECT_NEAR(product / norm(wq), cosine, 1e-4);
    }
}

TEST(Whitening, MakesEveryDirectionVaryAlike) {
    std::vector<float> rows = noise(32000, 16);
    for (size_t i = 0; i < rows.size(); i += 8) {
        rows[i] = 9 * rows[i] + 3;
        rows[i + 1] += rows[i];
    }
    const Whitening w = whitening_of(rows, 8, 0, 8);
    std::vector<float> turned(rows.size());
    for (size_t i = 0; i < rows.size(); i += 8) {
        multiply(w.root, std::span(rows).subspan(i, 8), std::span(turned).subspan(i, 8));
    }
    const Whitening again = whitening_of(turned, 8, 0, 8);
    for (size_t a = 0; a < 8; ++a) {
        for (size_t b = 0; b < 8; ++b) {
            EXPECT_NEAR(again.root[a * 8 + b], a == b ? 1.0 : 0.0, 0.05);
        }
    }
}

}  // namespace
}  // namespace palimpsest
