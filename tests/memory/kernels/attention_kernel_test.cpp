// The kernels against plain loops in double precision, at every instruction set this machine has.

#include "memory/kernels/attention_kernel.h"

#include <ggml-cpu.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/error.h"
#include "support/golden.h"
#include "support/reference_attention.h"
#include "support/simd_targets.h"

namespace palimpsest {
namespace {

using testing::all_targets;
using testing::attend_plainly;
using testing::choose_among;
using testing::for_each_target;
using testing::max_difference;
using testing::ReferenceAnswer;
using testing::ReferenceEntry;
using testing::Target;

// The kernels may read, and ignore, a vector's length past the last row.
constexpr size_t kReadable = 64;

std::vector<float> random_values(std::mt19937& engine, int64_t n, float size = 1) {
    std::vector<float> values(static_cast<size_t>(n));
    for (float& x : values) x = size * (static_cast<float>(engine() >> 8U) * 0x1p-23F - 1.0F);
    return values;
}

/// Entries of one head, as stored, and as the numbers that storing them left.
class Entries {
 public:
    Entries(ggml_type type, int64_t d, int64_t n, uint32_t seed = 1)
        : type_(type), d_(d), row_bytes_(ggml_row_size(type, d)) {
        std::mt19937 engine(seed);
        k_ = store(random_values(engine, d * n), n);
        v_ = store(random_values(engine, d * n), n);
        for (int64_t i = 0; i < n; ++i) {
            stored_.push_back({.position = i, .k = read(k_, i), .v = read(v_, i)});
        }
    }

    [[nodiscard]] EntryRows rows() const {
        return {.type = type_, .k = k_.data(), .v = v_.data(), .row_bytes = row_bytes_, .d = d_};
    }
    [[nodiscard]] std::span<const ReferenceEntry> stored() const { return stored_; }

 private:
    [[nodiscard]] std::vector<std::byte> store(const std::vector<float>& values, int64_t n) const {
        std::vector<std::byte> bytes(row_bytes_ * static_cast<size_t>(n) + kReadable);
        ggml_quantize_chunk(type_, values.data(), bytes.data(), 0, n, d_, nullptr);
        return bytes;
    }
    [[nodiscard]] std::vector<float> read(const std::vector<std::byte>& from, int64_t i) const {
        std::vector<float> row(static_cast<size_t>(d_));
        const std::byte* at = from.data() + static_cast<size_t>(i) * row_bytes_;
        if (type_ == GGML_TYPE_F32) {
            std::memcpy(row.data(), at, row_bytes_);
        } else {
            ggml_get_type_traits(type_)->to_float(at, row.data(), d_);
        }
        return row;
    }

    ggml_type type_;
    int64_t d_;
    size_t row_bytes_;
    std::vector<std::byte> k_, v_;
    std::vector<ReferenceEntry> stored_;
};

struct Answers {
    std::vector<float> out, lse;
};

/// Scratch memory as the kernels want it.
class Scratch {
 public:
    Scratch(int64_t d, int64_t n_group) : memory_(attention_scratch_floats(d, n_group) + 16) {}
    float* get() {
        const auto address = reinterpret_cast<uintptr_t>(memory_.data());
        return memory_.data() + (64 - address % 64) % 64 / sizeof(float);
    }

 private:
    std::vector<float> memory_;
};

/// Queries and what each sees.
struct Queries {
    std::vector<float> q;
    std::vector<std::pair<int64_t, int64_t>> seen;  // [begin, end)
    float scale = 1;

    [[nodiscard]] int64_t count() const { return std::ssize(seen); }
};

/// Queries of a size at which weights differ much, and all entries see.
Queries make_queries(int64_t d, int64_t n, int64_t n_slots, uint32_t seed = 2) {
    std::mt19937 engine(seed);
    return {.q = random_values(engine, d * n, 4),
            .seen = std::vector<std::pair<int64_t, int64_t>>(static_cast<size_t>(n), {0, n_slots}),
            .scale = 1.0F / std::sqrt(static_cast<float>(d))};
}

/// Windows that slide over 200 slots, some shorter than a tile, one that begins in the last slot.
Queries sliding_queries(int64_t d, int64_t n_slots) {
    Queries queries = make_queries(d, 96, n_slots);
    for (int64_t r = 0; r < 96; ++r) {
        queries.seen[static_cast<size_t>(r)] = {r * 2 % 120, 121 + r * 79 / 95};
    }
    queries.seen.back() = {n_slots - 1, n_slots};
    return queries;
}

std::vector<QueryRow> query_rows(const Queries& queries, int64_t d, Answers& answers) {
    answers.out.assign(queries.q.size(), std::numeric_limits<float>::quiet_NaN());
    answers.lse.assign(queries.seen.size(), std::numeric_limits<float>::quiet_NaN());
    std::vector<QueryRow> rows;
    for (size_t r = 0; r < queries.seen.size(); ++r) {
        const size_t at = r * static_cast<size_t>(d);
        rows.push_back({.q = &queries.q[at],
                        .out = &answers.out[at],
                        .lse = &answers.lse[r],
                        .begin = queries.seen[r].first,
                        .end = queries.seen[r].second});
    }
    return rows;
}

Answers by_rows(const Entries& entries, const Queries& queries,
                decltype(attend_rows)& attend = attend_rows) {
    const int64_t d = entries.rows().d;
    Answers answers;
    Scratch scratch(d, 1);
    attend(entries.rows(), query_rows(queries, d, answers), queries.scale, scratch.get());
    return answers;
}

/// From parts of `length` slots, joined in double precision. Empty if the kernel declines.
Answers by_parts(const Entries& entries, const Queries& queries, int64_t length) {
    const int64_t d = entries.rows().d;
    const auto [begin, end] = queries.seen.front();
    Answers answers;
    const std::vector<QueryRow> rows = query_rows(queries, d, answers);
    Scratch scratch(d, queries.count());
    std::vector<double> sum(queries.q.size()), weight(rows.size()), peak(rows.size(), -1e300);
    std::vector<float> part_sums(queries.q.size());
    for (int64_t at = begin; at < end; at += length) {
        std::vector<PartialRow> parts(rows.size());
        for (size_t r = 0; r < rows.size(); ++r)
            parts[r].sum = &part_sums[r * static_cast<size_t>(d)];
        if (!attend_part(entries.rows(), rows, {at, std::min(at + length, end)}, queries.scale,
                         parts, scratch.get())) {
            return {};
        }
        for (size_t r = 0; r < rows.size(); ++r) {
            const double top = std::max(peak[r], static_cast<double>(parts[r].peak));
            const double old = std::exp2(peak[r] - top);
            const double now = std::exp2(static_cast<double>(parts[r].peak) - top);
            peak[r] = top;
            weight[r] = weight[r] * old + now * static_cast<double>(parts[r].weight);
            for (size_t c = r * static_cast<size_t>(d); c < (r + 1) * static_cast<size_t>(d); ++c) {
                sum[c] = sum[c] * old + now * static_cast<double>(part_sums[c]);
            }
        }
    }
    for (size_t r = 0; r < rows.size(); ++r) {
        answers.lse[r] = static_cast<float>((peak[r] + std::log2(weight[r])) * std::log(2.0));
        for (size_t c = r * static_cast<size_t>(d); c < (r + 1) * static_cast<size_t>(d); ++c) {
            answers.out[c] = static_cast<float>(sum[c] / weight[r]);
        }
    }
    return answers;
}

Answers expected(const Entries& entries, const Queries& queries) {
    Answers answers;
    const auto d = static_cast<size_t>(entries.rows().d);
    for (size_t r = 0; r < queries.seen.size(); ++r) {
        const auto [begin, end] = queries.seen[r];
        const ReferenceAnswer a =
            attend_plainly(std::span(queries.q).subspan(r * d, d), entries.stored(),
                           {.first = begin, .last = end - 1}, static_cast<double>(queries.scale));
        answers.out.insert(answers.out.end(), a.out.begin(), a.out.end());
        answers.lse.push_back(static_cast<float>(a.lse));
    }
    return answers;
}

// Sums of up to a thousand f32 numbers of about 1, and a 2^x that is exact to 2e-7.
constexpr double kTolerance = 5e-6;

void expect_near(const Answers& got, const Answers& wanted) {
    EXPECT_LE(max_difference(got.out, wanted.out), kTolerance);
    EXPECT_LE(max_difference(got.lse, wanted.lse), kTolerance);
}

struct Case {
    int64_t d;
    ggml_type type;
};

class AttentionKernel : public ::testing::TestWithParam<Case> {
 protected:
    int64_t d = GetParam().d;
    ggml_type type = GetParam().type;
};

TEST_P(AttentionKernel, RowsEqualPlainLoopsForEveryCountOfRows) {
    const Entries entries(type, d, 65);
    for (const int64_t n : {1, 2, 5, 47, 48, 49, 96}) {
        const Queries queries = make_queries(d, n, 65);
        const Answers wanted = expected(entries, queries);
        SCOPED_TRACE(n);
        for_each_target([&] { expect_near(by_rows(entries, queries), wanted); });
    }
}

TEST_P(AttentionKernel, RowsEqualPlainLoopsForEveryCountOfSlots) {
    for (const int64_t n : {1, 3, 4, 5, 63, 64, 65, 257, 1000}) {
        const Entries entries(type, d, n);
        const Queries queries = make_queries(d, 5, n);
        const Answers wanted = expected(entries, queries);
        SCOPED_TRACE(n);
        for_each_target([&] { expect_near(by_rows(entries, queries), wanted); });
    }
}

TEST_P(AttentionKernel, RowsSeeTheirOwnRangesOnly) {
    const int64_t n_slots = 200;
    const Entries entries(type, d, n_slots);
    const Queries queries = sliding_queries(d, n_slots);
    const Answers wanted = expected(entries, queries);
    for_each_target([&] { expect_near(by_rows(entries, queries), wanted); });
}

TEST_P(AttentionKernel, RowsOfACausalStepEqualPlainLoops) {
    const Entries entries(type, d, 60);
    Queries queries = make_queries(d, 50, 60);
    for (int64_t r = 0; r < 50; ++r) queries.seen[static_cast<size_t>(r)] = {0, 11 + r};
    const Answers wanted = expected(entries, queries);
    for_each_target([&] { expect_near(by_rows(entries, queries), wanted); });
}

TEST_P(AttentionKernel, ARowThatSeesNothingAnswersZero) {
    const Entries entries(type, d, 70);
    Queries queries = make_queries(d, 3, 70);
    queries.seen[1] = {65, 65};
    for_each_target([&] {
        const Answers got = by_rows(entries, queries);
        const auto row = std::span(got.out).subspan(static_cast<size_t>(d), static_cast<size_t>(d));
        EXPECT_EQ(max_difference(row, std::vector<float>(row.size())), 0);
        EXPECT_EQ(got.lse[1], -std::numeric_limits<float>::infinity());
    });
}

TEST_P(AttentionKernel, PartsEqualPlainLoopsForEveryCountOfRows) {
    const Entries entries(type, d, 65);
    for (const int64_t n : {1, 2, 3, 4, 5, 6, 7, 12}) {
        const Queries queries = make_queries(d, n, 65);
        const Answers wanted = expected(entries, queries);
        SCOPED_TRACE(n);
        for_each_target([&] {
            const Answers got = by_parts(entries, queries, 65);
            // Heads that are no whole number of vectors are not for this kernel.
            if (got.out.empty() && d % 16 != 0) return;
            expect_near(got, wanted);
        });
    }
}

TEST_P(AttentionKernel, PartsEqualPlainLoopsForEveryCountOfSlots) {
    for (const int64_t n : {1, 3, 4, 5, 63, 64, 65, 257, 1000}) {
        const Entries entries(type, d, n);
        const Queries queries = make_queries(d, 3, n);
        const Answers wanted = expected(entries, queries);
        SCOPED_TRACE(n);
        for_each_target([&] {
            const Answers got = by_parts(entries, queries, 256);
            if (got.out.empty() && d % 16 != 0) return;
            expect_near(got, wanted);
        });
    }
}

TEST_P(AttentionKernel, PartsMayBeginAnywhere) {
    const Entries entries(type, d, 300);
    Queries queries = make_queries(d, 2, 300);
    queries.seen = {{37, 290}, {37, 290}};
    const Answers wanted = expected(entries, queries);
    for_each_target([&] {
        const Answers got = by_parts(entries, queries, 61);
        if (got.out.empty() && d % 16 != 0) return;
        expect_near(got, wanted);
    });
}

TEST_P(AttentionKernel, HugeLogitsGiveNumbers) {
    const Entries entries(type, d, 130);
    Queries queries = make_queries(d, 5, 130);
    queries.scale = 1e6F;
    const std::vector<float> zeros(queries.q.size());
    for_each_target([&] {
        // Means of values in [-1, 1], rounding included; the helper rejects NaN.
        EXPECT_LE(max_difference(by_rows(entries, queries).out, zeros), 1.01);
        const Answers parts = by_parts(entries, queries, 64);
        if (parts.out.empty() && d % 16 != 0) return;
        EXPECT_LE(max_difference(parts.out, zeros), 1.01);
    });
}

TEST_P(AttentionKernel, EqualLogitsGiveTheMean) {
    const Entries entries(type, d, 130);
    Queries queries = make_queries(d, 5, 130);
    queries.scale = 0;
    const Answers wanted = expected(entries, queries);
    for_each_target([&] { expect_near(by_rows(entries, queries), wanted); });
}

// ---- in bf16 ------------------------------------------------------------------------------------

float to_bf16(float x) { return ggml_bf16_to_fp32(ggml_fp32_to_bf16(x)); }

std::vector<float> to_bf16(std::vector<float> values) {
    for (float& x : values) x = to_bf16(x);
    return values;
}

Answers by_rounded_rows(const Entries& entries, const Queries& queries) {
    return by_rows(entries, queries, attend_rows_bf16);
}

/// What exact arithmetic gives once keys, values and scaled queries are rounded.
Answers expected_of_rounded(const Entries& entries, const Queries& queries) {
    constexpr float kLog2E = 1.44269504088896341F;
    const auto d = static_cast<size_t>(entries.rows().d);
    std::vector<ReferenceEntry> rounded;
    for (const ReferenceEntry& e : entries.stored()) {
        rounded.push_back({.position = e.position, .k = to_bf16(e.k), .v = to_bf16(e.v)});
    }
    std::vector<float> q;
    for (const float x : queries.q) q.push_back(to_bf16(x * queries.scale * kLog2E));
    Answers answers;
    for (size_t r = 0; r < queries.seen.size(); ++r) {
        const auto [begin, end] = queries.seen[r];
        const ReferenceAnswer a = attend_plainly(std::span(q).subspan(r * d, d), rounded,
                                                 {.first = begin, .last = end - 1}, std::log(2.0));
        answers.out.insert(answers.out.end(), a.out.begin(), a.out.end());
        answers.lse.push_back(static_cast<float>(a.lse));
    }
    return answers;
}

class RoundedAttentionKernel : public AttentionKernel {
 protected:
    void SetUp() override {
        if (!has_bf16_attention()) GTEST_SKIP() << "this processor has no bf16 instructions";
    }
    /// Weights are rounded too: each by 2^-9 of itself at most, and so a mean of values up to 1.
    static void expect_close(const Answers& got, const Answers& wanted) {
        EXPECT_LE(max_difference(got.out, wanted.out), 0x1p-9);
        EXPECT_LE(max_difference(got.lse, wanted.lse), 1e-4);
    }
};

TEST_P(RoundedAttentionKernel, EqualsExactArithmeticOfRoundedNumbers) {
    for (const int64_t n_rows : {1, 5, 47, 48, 49, 96}) {
        for (const int64_t n_slots : {1, 2, 3, 63, 64, 65, 257}) {
            SCOPED_TRACE(cat(n_rows, " rows, ", n_slots, " slots"));
            const Entries entries(type, d, n_slots);
            const Queries queries = make_queries(d, n_rows, n_slots);
            expect_close(by_rounded_rows(entries, queries), expected_of_rounded(entries, queries));
        }
    }
}

TEST_P(RoundedAttentionKernel, RowsSeeTheirOwnRangesOnly) {
    const int64_t n_slots = 200;
    const Entries entries(type, d, n_slots);
    const Queries queries = sliding_queries(d, n_slots);
    expect_close(by_rounded_rows(entries, queries), expected_of_rounded(entries, queries));
}

TEST_P(RoundedAttentionKernel, ARowDoesNotDependOnTheRowsBesideIt) {
    const Entries entries(type, d, 300);
    Queries queries = make_queries(d, 96, 300);
    for (int64_t r = 0; r < 96; ++r) queries.seen[static_cast<size_t>(r)] = {3 * r, 205 + r};
    const Answers together = by_rounded_rows(entries, queries);
    for (const int64_t r : {0, 17, 48, 95}) {
        const auto row = queries.q.begin() + r * d;
        const Queries one = {.q = {row, row + d},
                             .seen = {queries.seen[static_cast<size_t>(r)]},
                             .scale = queries.scale};
        const Answers alone = by_rounded_rows(entries, one);
        const auto out = together.out.begin() + r * d;
        EXPECT_EQ(alone.out, std::vector<float>(out, out + d)) << r;
        EXPECT_EQ(alone.lse[0], together.lse[static_cast<size_t>(r)]) << r;
    }
}

TEST_P(RoundedAttentionKernel, ARowThatSeesNothingAnswersZero) {
    const Entries entries(type, d, 70);
    Queries queries = make_queries(d, 3, 70);
    queries.seen[1] = {65, 65};
    const Answers got = by_rounded_rows(entries, queries);
    const auto row = std::span(got.out).subspan(static_cast<size_t>(d), static_cast<size_t>(d));
    EXPECT_EQ(max_difference(row, std::vector<float>(row.size())), 0);
    EXPECT_EQ(got.lse[1], -std::numeric_limits<float>::infinity());
}

TEST_P(RoundedAttentionKernel, HugeLogitsGiveNumbers) {
    const Entries entries(type, d, 130);
    Queries queries = make_queries(d, 5, 130);
    queries.scale = 1e6F;
    const std::vector<float> zeros(queries.q.size());
    EXPECT_LE(max_difference(by_rounded_rows(entries, queries).out, zeros), 1.01);
}

std::vector<Case> all_cases() {
    std::vector<Case> cases;
    for (const int64_t d : {8, 16, 24, 32, 40, 64, 80, 96, 128, 256, 512}) {
        for (const ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q8_0}) {
            if (d % ggml_blck_size(type) == 0) cases.push_back({d, type});
        }
    }
    return cases;
}

INSTANTIATE_TEST_SUITE_P(HeadSizes, AttentionKernel, ::testing::ValuesIn(all_cases()),
                         [](const auto& test) {
                             return std::to_string(test.param.d) + "_" +
                                    ggml_type_name(test.param.type);
                         });

INSTANTIATE_TEST_SUITE_P(HeadSizes, RoundedAttentionKernel, ::testing::ValuesIn(all_cases()),
                         [](const auto& test) {
                             return std::to_string(test.param.d) + "_" +
                                    ggml_type_name(test.param.type);
                         });

TEST(AttentionTarget, IsTheWidestByDefault) {
    const std::vector<Target> targets = all_targets();
    EXPECT_EQ(targets.front().name, attention_target());
}

TEST(AttentionTarget, FollowsWhatTheProcessorHas) {
    choose_among(0);
    const int64_t has = hwy::SupportedTargets();
    if ((has & HWY_AVX2) == 0) GTEST_SKIP() << "this processor has no AVX2";
    choose_among(HWY_AVX2 | HWY_SSSE3);
    EXPECT_STREQ(attention_target(), "AVX2");
    choose_among(0);
}

}  // namespace
}  // namespace palimpsest
