// The scoring kernels against plain loops in double precision, at every instruction set.

#include "memory/kernels/scoring_kernel.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "memory/attention/entry_store.h"
#include "support/golden.h"
#include "support/simd_targets.h"

namespace palimpsest {
namespace {

using testing::for_each_target;
using testing::max_difference;

struct Case {
    ggml_type type;
    int64_t d, n_slots, n_rows;
};

/// Entries of one head, and rows that see different parts of them.
class Scoring : public ::testing::TestWithParam<Case> {
 protected:
    Scoring() {
        const Case& c = GetParam();
        std::mt19937 engine(1);
        const auto random = [&engine](int64_t n) {
            std::vector<float> values(static_cast<size_t>(n));
            for (float& x : values) x = static_cast<float>(engine() >> 8U) * 0x1p-23F - 1.0F;
            return values;
        };
        const std::vector<float> k = random(c.d * c.n_slots);
        for (int64_t t = 0; t < c.n_slots; ++t) {
            store.write(0, 0, t, k.data() + t * c.d, k.data() + t * c.d);
        }
        keys.resize(k.size());
        read_keys(store.rows(0, 0), 0, c.n_slots, keys.data());
        queries = random(c.d * c.n_rows);
        lse.resize(static_cast<size_t>(c.n_rows));
        for (int64_t r = 0; r < c.n_rows; ++r) {
            // A causal edge, a window, and a row that sees nothing.
            const int64_t end = r == 1 ? 0 : c.n_slots - r % c.n_slots;
            const int64_t begin = r % 3 == 2 ? end / 2 : 0;
            rows.push_back({.q = queries.data() + r * c.d,
                            .out = nullptr,
                            .lse = &lse[static_cast<size_t>(r)],
                            .begin = begin,
                            .end = end});
        }
        memory.resize(attention_scratch_floats(c.d, 1) + 16);
    }

    [[nodiscard]] float* scratch() {
        const auto address = reinterpret_cast<uintptr_t>(memory.data());
        return memory.data() + (64 - address % 64) % 64 / sizeof(float);
    }

    [[nodiscard]] double product(const float* row, int64_t slot) const {
        double sum = 0;
        for (int64_t c = 0; c < GetParam().d; ++c) {
            sum += static_cast<double>(row[c]) *
                   static_cast<double>(keys[static_cast<size_t>(slot * GetParam().d + c)]);
        }
        return sum;
    }

    [[nodiscard]] double expected_lse(const QueryRow& row) const {
        double sum = 0;
        for (int64_t t = row.begin; t < row.end; ++t) sum += std::exp(kScale * product(row.q, t));
        return std::log(sum);
    }

    static constexpr double kScale = 0.7;
    EntryStore store{
        {.n_layer = 1, .n_head = 1, .n_head_kv = 1, .d_head = GetParam().d, .windows = {}},
        GetParam().type,
        GetParam().n_slots};
    std::vector<float> keys, queries, lse, memory;
    std::vector<QueryRow> rows;
};

TEST_P(Scoring, SumsLogits) {
    for_each_target([&] {
        sum_logits(store.rows(0, 0), rows, static_cast<float>(kScale), scratch());
        for (const QueryRow& row : rows) {
            if (row.begin == row.end) {
                EXPECT_EQ(*row.lse, -std::numeric_limits<float>::infinity());
            } else {
                EXPECT_NEAR(static_cast<double>(*row.lse), expected_lse(row), 2e-5);
            }
        }
    });
}

TEST_P(Scoring, AddsMass) {
    const int64_t n = GetParam().n_slots;
    for (const Reduce reduce : {Reduce::kSum, Reduce::kMax}) {
        std::vector<float> expected(static_cast<size_t>(n), 0.25F);
        for (const QueryRow& row : rows) {
            if (row.begin == row.end) continue;
            const double sum = expected_lse(row);
            for (int64_t t = row.begin; t < row.end; ++t) {
                float& of = expected[static_cast<size_t>(t)];
                const auto w = static_cast<float>(std::exp(kScale * product(row.q, t) - sum));
                of = reduce == Reduce::kSum ? of + w : std::max(of, w);
            }
        }
        for_each_target([&] {
            sum_logits(store.rows(0, 0), rows, static_cast<float>(kScale), scratch());
            std::vector<float> mass(static_cast<size_t>(n), 0.25F);
            // In two parts, as two threads would.
            const int64_t cut = n / 3;
            add_mass(store.rows(0, 0), rows, {0, cut}, static_cast<float>(kScale),
                     {mass.data(), reduce}, scratch());
            add_mass(store.rows(0, 0), rows, {cut, n}, static_cast<float>(kScale),
                     {mass.data() + cut, reduce}, scratch());
            EXPECT_LE(max_difference(mass, expected), 2e-5);
        });
    }
}

TEST_P(Scoring, MultipliesKeys) {
    const int64_t n = GetParam().n_slots;
    const int64_t n_rows = GetParam().n_rows;
    std::vector<float> expected;
    for (int64_t t = 1; t < n; ++t) {
        for (const QueryRow& row : rows) {
            expected.push_back(static_cast<float>(product(row.q, t)));
        }
    }
    for_each_target([&] {
        std::vector<float> out(static_cast<size_t>((n - 1) * n_rows));
        multiply_keys(store.rows(0, 0), {1, n}, queries, out.data(), scratch());
        EXPECT_LE(max_difference(out, expected), 2e-5);
    });
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, Scoring,
    ::testing::Values(Case{GGML_TYPE_F32, 8, 5, 1}, Case{GGML_TYPE_F32, 24, 130, 96},
                      Case{GGML_TYPE_F16, 64, 257, 12}, Case{GGML_TYPE_F16, 16, 70, 13},
                      Case{GGML_TYPE_Q8_0, 32, 100, 3}, Case{GGML_TYPE_Q8_0, 128, 65, 50}),
    [](const auto& test) {
        const Case& c = test.param;
        return std::string(ggml_type_name(c.type)) + "_" + std::to_string(c.d) + "_" +
               std::to_string(c.n_slots) + "_" + std::to_string(c.n_rows);
    });

}  // namespace
}  // namespace palimpsest
