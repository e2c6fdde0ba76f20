#include "text/text_parts.h"

#include <gtest/gtest.h>

namespace palimpsest {
namespace {

using Texts = std::vector<std::string_view>;

TEST(TextParts, CharactersAreThoseOfUtf8) {
    EXPECT_EQ(characters_of("aé中😀"), (Texts{"a", "é", "中", "😀"}));
    EXPECT_EQ(characters_of(""), Texts{});
    // Neither half a character nor what only goes on with one swallows what follows.
    EXPECT_EQ(characters_of("\xe4\xb8z"), (Texts{"\xe4", "\xb8", "z"}));
    EXPECT_EQ(characters_of("z\xe4\xb8"), (Texts{"z", "\xe4", "\xb8"}));
}

TEST(TextParts, CodePointsAreUnicodes) {
    EXPECT_EQ(code_point("a"), U'a');
    EXPECT_EQ(code_point("é"), U'\u00e9');
    EXPECT_EQ(code_point("中"), U'\u4e2d');
    EXPECT_EQ(code_point("😀"), U'\U0001f600');
    EXPECT_EQ(code_point("\xe4"), 0xe4U);
}

TEST(TextParts, WhiteSpaceIsThatOfPython) {
    for (const char* white : {" ", "\n", "\x1c", "\u0085", "\u00a0", "\u1680", "\u2000", "\u200a",
                              "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"}) {
        EXPECT_TRUE(is_white(white)) << white;
    }
    for (const char* other : {"a", "\x1b", "中", "\u1681", "\u200b", "\u3001", "\x85", "\xa0"}) {
        EXPECT_FALSE(is_white(other)) << other;
    }
}

TEST(TextParts, WordsByCharacterAreRunsOfAsciiAndSingleOthers) {
    EXPECT_EQ(words_by_character("第12章 GPT4。"), (Texts{"第", "12", "章", "GPT4", "。"}));
    EXPECT_EQ(words_by_character("a-b"), (Texts{"a", "-", "b"}));
    EXPECT_EQ(words_by_character("a b\u3000中"), (Texts{"a", "b", "中"}));
    EXPECT_EQ(words_by_character("zZ09"), Texts{"zZ09"});
    EXPECT_EQ(words_by_character(" \n"), Texts{});
}

TEST(TextParts, SplittingKeepsWhatIsEmpty) {
    EXPECT_EQ(split_at("a,,b,", ','), (Texts{"a", "", "b", ""}));
    EXPECT_EQ(split_at("", ','), Texts{""});
}

TEST(TextParts, NumbersStandRightBehindTheirMark) {
    EXPECT_EQ(number_behind("No. x, No. 12 and No. 7", "No. "), "12");
    EXPECT_EQ(number_behind("No.  12", "No. "), "");
    EXPECT_EQ(number_behind("No. ", "No. "), "");
}

}  // namespace
}  // namespace palimpsest
