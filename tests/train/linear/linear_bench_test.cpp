// Comparisons of banks: results are read as they were written, and arms are of equal bytes.

#include "train/linear/linear_bench.h"

#include <gtest/gtest.h>

#include <set>

#include "core/error.h"

namespace palimpsest {
namespace {

LinearResult result(const std::string& arm, double rate, uint64_t seed, double loss,
                    int64_t right) {
    LinearResult r;
    r.task = "recall";
    r.base = "mamba2";
    r.arm = arm;
    r.rate = rate;
    r.seed = seed;
    r.loss = loss;
    r.n_steps = 10;
    r.n_tokens = 640;
    r.state_bytes = 2048;
    r.tokens_per_s = 100;
    r.settings = "some";
    r.boundary_rates = {0.25, 0.5};
    r.thresholds = {0.6F, 0.7F};
    r.scores = {{.set = "4 pairs", .n = 200, .n_right = right, .n_bytes = 200, .bits = 12.5}};
    return r;
}

TEST(LinearBench, ResultsAreReadAsTheyWereWritten) {
    const LinearResult r = result("dla", 3e-3, 2, 1.5, 150);
    const LinearResult again = linear_result(to_json_line(r), "a line");
    EXPECT_EQ(key_of(again), key_of(r));
    EXPECT_EQ(to_json_line(again), to_json_line(r));
    for (const char* line : {"", "{}", "[1]", R"({"kind": "linear", "task": 3})"}) {
        EXPECT_THROW(static_cast<void>(linear_result(line, "a line")), Error) << line;
    }
}

TEST(LinearBench, TheTableHasTheBestRateAndItsSpread) {
    // By loss, not by what it is examined in: the other rate's accuracy is higher.
    const std::string table =
        linear_tables({result("dla", 1e-2, 1, 1.0, 100), result("dla", 3e-3, 1, 2.0, 190),
                       result("dla", 1e-2, 2, 9.0, 140), result("single", 1e-2, 1, 3.0, 20)});
    EXPECT_NE(table.find("### recall, mamba2"), std::string::npos);
    EXPECT_NE(table.find("| dla | 2048 | 0 | 0.01 | 2 | 0.25 / 0.50 | 100 | 60.0 ± 14.1 |"),
              std::string::npos)
        << table;
    EXPECT_NE(table.find("| single | 2048 | 0 | 0.01 | 1 | 0.25 / 0.50 | 100 | 10.0 |"),
              std::string::npos)
        << table;
}

TEST(LinearArms, HoldAsManyBytes) {
    const LinearArmInputs in = {.shape = {.n_head = 2, .d_key = 8, .d_value = 16},
                                .n_states = 7,
                                .length = 64,
                                .dynamic_rate = 0.4};
    std::set<std::string_view> names;
    for (const LinearArm& arm : linear_arms()) {
        SCOPED_TRACE(arm.name);
        EXPECT_TRUE(names.insert(arm.name).second);
        const LinearArmSetup s = arm.make(in);
        const int64_t held = s.mixing.window > 0
                                 ? s.mixing.window * (s.shape.d_key + s.shape.d_value)
                                 : s.mixing.bank.n_states * s.shape.d_key * s.shape.d_value;
        const int64_t bank = 7 * 8 * 16;
        if (arm.name == "single") {
            EXPECT_EQ(held, bank / 7);
        } else {
            EXPECT_LE(held, bank);
            EXPECT_GT(held, bank - 24);
        }
        // It can be made.
        EXPECT_NE(make_bank({.n_rows = 8, .n_columns = 16}, s.mixing.bank), nullptr);
    }
    EXPECT_DOUBLE_EQ(linear_arm("random").make(in).mixing.bank.rate, 0.4);
    EXPECT_THROW(static_cast<void>(linear_arm("rendom")), Error);
}

TEST(LinearBench, NothingToCompareIsRefused) {
    EXPECT_THROW(run_linear_bench({}, {}, {}), Error);
    LinearBenchOptions o;
    o.arms = {"nothing"};
    EXPECT_THROW(run_linear_bench(o, {}, {}), Error);
}

}  // namespace
}  // namespace palimpsest
