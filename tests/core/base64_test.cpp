#include "core/base64.h"

#include <gtest/gtest.h>

#include "core/random.h"

namespace palimpsest {
namespace {

std::string coded(std::string_view text) { return to_base64(std::as_bytes(std::span(text))); }

// The vectors of RFC 4648, section 10.
TEST(Base64, KnowsTheVectorsOfItsStandard) {
    const std::pair<const char*, const char*> vectors[] = {{"", ""},
                                                           {"f", "Zg=="},
                                                           {"fo", "Zm8="},
                                                           {"foo", "Zm9v"},
                                                           {"foob", "Zm9vYg=="},
                                                           {"fooba", "Zm9vYmE="},
                                                           {"foobar", "Zm9vYmFy"}};
    for (const auto& [text, code] : vectors) {
        EXPECT_EQ(coded(text), code);
        EXPECT_EQ(from_base64(code), text);
    }
}

TEST(Base64, TakesBothAlphabetsWithoutPaddingAndWithSpace) {
    EXPECT_EQ(from_base64("+/+/"), from_base64("-_-_"));
    EXPECT_EQ(from_base64("Zm8"), "fo");
    EXPECT_EQ(from_base64(" Zm\r\n9v \t"), "foo");
}

TEST(Base64, RefusesWhatIsNone) {
    for (const char* text : {"Z", "Zm9v!", "Zm=9", "Z===Z", "\xff\xff\xff\xff"}) {
        EXPECT_EQ(from_base64(text), std::nullopt) << text;
    }
}

TEST(Base64, GivesBackWhatItWasGiven) {
    Random random(3);
    for (int n = 0; n < 100; ++n) {
        std::string bytes;
        for (int i = 0; i < n; ++i) bytes += static_cast<char>(random.below(256));
        EXPECT_EQ(from_base64(coded(bytes)), bytes);
    }
}

}  // namespace
}  // namespace palimpsest
