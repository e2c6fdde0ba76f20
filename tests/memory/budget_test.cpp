// Budgets as people write them.

#include "memory/budget.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace palimpsest {
namespace {

TEST(Budget, ReadsEntriesBytesAndShares) {
    EXPECT_EQ(parse_budget("1024").kind, Budget::Kind::kEntries);
    EXPECT_EQ(parse_budget("1024").count, 1024);
    EXPECT_EQ(parse_budget("64MiB").kind, Budget::Kind::kBytes);
    EXPECT_EQ(parse_budget("64MiB").count, int64_t{64} << 20);
    EXPECT_EQ(parse_budget("1.5 kB").count, 1500);
    EXPECT_EQ(parse_budget("25%").kind, Budget::Kind::kShare);
    EXPECT_DOUBLE_EQ(parse_budget("25%").share, 0.25);
    EXPECT_DOUBLE_EQ(parse_budget("100%").share, 1.0);
}

TEST(Budget, RefusesWhatMakesNoSense) {
    for (const char* text :
         {"", "0", "-5", "0%", "-1%", "101%", "1e400", "nan", "inf", "1.5", "12 bananas", "0MiB",
          "64M", "99999999999999999999", "1e18GiB", "%", "MiB", "10 % of it",
          // Found by fuzzing: above zero, and yet nothing.
          "0.2 B", "1e-322%"}) {
        try {
            parse_budget(text);
            ADD_FAILURE() << text;
        } catch (const Error& e) {
            EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument) << text;
            EXPECT_NE(std::string(e.what()).find("64MiB"), std::string::npos) << e.what();
        }
    }
}

}  // namespace
}  // namespace palimpsest
