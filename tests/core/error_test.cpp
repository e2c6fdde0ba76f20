#include "core/error.h"

#include <gtest/gtest.h>

#include <set>

namespace palimpsest {
namespace {

constexpr ErrorCode kCodes[] = {ErrorCode::kInvalidArgument, ErrorCode::kNotFound,
                                ErrorCode::kCorrupt,         ErrorCode::kUnsupported,
                                ErrorCode::kExhausted,       ErrorCode::kUnwritable,
                                ErrorCode::kInternal};

TEST(Error, HasTheExitStatusThatTheHelpPromises) {
    EXPECT_EQ(exit_code(ErrorCode::kInvalidArgument), 2);
    EXPECT_EQ(exit_code(ErrorCode::kNotFound), 3);
    EXPECT_EQ(exit_code(ErrorCode::kCorrupt), 4);
    EXPECT_EQ(exit_code(ErrorCode::kUnsupported), 5);
    EXPECT_EQ(exit_code(ErrorCode::kExhausted), 6);
    EXPECT_EQ(exit_code(ErrorCode::kUnwritable), 74);
    EXPECT_EQ(exit_code(ErrorCode::kInternal), 70);
}

TEST(Error, HasAnHttpStatusOfItsOwnForEveryCode) {
    std::set<int> statuses;
    for (const ErrorCode c : kCodes) {
        statuses.insert(http_status(c));
        EXPECT_GE(http_status(c), 400);
        EXPECT_LT(http_status(c), 600);
    }
    EXPECT_EQ(statuses.size(), std::size(kCodes));
}

TEST(Error, OfRequireJoinsItsParts) {
    try {
        require(false, "budget ", 64, " is below ", 68);
        FAIL() << "nothing was thrown";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
        EXPECT_STREQ(e.what(), "budget 64 is below 68");
    }
}

TEST(Error, OfCheckNamesThePlace) {
    try {
        check(false, "two is three");
        FAIL() << "nothing was thrown";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kInternal);
        const std::string what = e.what();
        EXPECT_NE(what.find("error_test.cpp"), std::string::npos) << what;
        EXPECT_NE(what.find("two is three"), std::string::npos) << what;
    }
}

TEST(Error, IsNotThrownWhenAllIsWell) {
    EXPECT_NO_THROW(require(true, "never seen"));
    EXPECT_NO_THROW(check(true, "never seen"));
}

}  // namespace
}  // namespace palimpsest
