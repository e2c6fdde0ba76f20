// That the tests run the program as they mean to.

#include "support/process.h"

#include <gtest/gtest.h>

namespace palimpsest {
namespace {

TEST(Program, IsRunWithItsArgumentsAndItsOutputIsKept) {
    const testing::ProgramResult r = testing::run_palimpsest({"--version"});
    EXPECT_EQ(r.status, 0);
    EXPECT_NE(r.out.find("palimpsest"), std::string::npos);
    EXPECT_EQ(r.err, "");
}

}  // namespace
}  // namespace palimpsest
