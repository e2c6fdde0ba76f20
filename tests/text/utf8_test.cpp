#include "text/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace palimpsest {
namespace {

struct Case {
    const char* name;
    std::string text;
    size_t bad_at;
    std::string repaired;
};

const std::string kMark = "\xEF\xBF\xBD";

class InvalidUtf8 : public ::testing::TestWithParam<Case> {};

TEST_P(InvalidUtf8, IsFoundWhereItBegins) {
    EXPECT_EQ(find_invalid_utf8(GetParam().text), GetParam().bad_at);
}

TEST_P(InvalidUtf8, IsReplacedByteByByte) {
    EXPECT_EQ(replace_invalid_utf8(GetParam().text), GetParam().repaired);
}

const Case kCases[] = {
    {"lone_continuation", "a\x80", 1, "a" + kMark},
    {"overlong_2", "\xC0\x80", 0, kMark + kMark},
    {"overlong_3", "\xE0\x9F\xBF", 0, kMark + kMark + kMark},
    {"overlong_4", "\xF0\x8F\xBF\xBF", 0, kMark + kMark + kMark + kMark},
    {"first_surrogate", "\xED\xA0\x80", 0, kMark + kMark + kMark},
    {"last_surrogate", "\xED\xBF\xBF", 0, kMark + kMark + kMark},
    {"beyond_unicode", "\xF4\x90\x80\x80", 0, kMark + kMark + kMark + kMark},
    {"five_bytes", "\xF8\x88\x80\x80\x80", 0, kMark + kMark + kMark + kMark + kMark},
    {"byte_ff", "ab\xFF", 2, "ab" + kMark},
    {"cut_at_the_end", "\xC3\xA4\xE2\x82", 2, "\xC3\xA4" + kMark + kMark},
    {"cut_by_a_letter", "\xF0\x9F\x98x", 0, kMark + kMark + kMark + "x"},
};

INSTANTIATE_TEST_SUITE_P(Utf8, InvalidUtf8, ::testing::ValuesIn(kCases),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(Utf8, AcceptsTheEdgesOfEveryLength) {
    for (const char* text :
         {"", "\x7F", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80",
          "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) {
        EXPECT_EQ(find_invalid_utf8(text), std::nullopt) << text;
        EXPECT_EQ(replace_invalid_utf8(text), text);
    }
}

TEST(Utf8, AcceptsAZeroByte) {
    EXPECT_EQ(find_invalid_utf8(std::string_view("a\0b", 3)), std::nullopt);
}

TEST(Utf8, SeesHowMuchOfACharacterIsUnfinished) {
    EXPECT_EQ(unfinished_utf8(""), 0U);
    EXPECT_EQ(unfinished_utf8("abc"), 0U);
    EXPECT_EQ(unfinished_utf8("a\xC3"), 1U);
    EXPECT_EQ(unfinished_utf8("a\xE2\x82"), 2U);
    EXPECT_EQ(unfinished_utf8("a\xF0\x9F\x98"), 3U);
    EXPECT_EQ(unfinished_utf8("a\xF0\x9F\x98\x80"), 0U);
}

TEST(Utf8, ExpectsNoCompletionOfWhatIsInvalid) {
    EXPECT_EQ(unfinished_utf8("a\x80"), 0U);
    EXPECT_EQ(unfinished_utf8("a\xFF"), 0U);
    EXPECT_EQ(unfinished_utf8("a\xED\xA0"), 0U);
    EXPECT_EQ(unfinished_utf8("a\xE0\x9F"), 0U);
}

}  // namespace
}  // namespace palimpsest
