// The GGUF reader: what a valid file says, and every way in which a file can lie.

#include "core/gguf.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <limits>

#include "core/error.h"
#include "support/gguf_builder.h"
#include "support/golden.h"

namespace palimpsest {
namespace {

using testing::GgufBuilder;
using testing::raw;
using testing::small_file;

constexpr uint64_t kHuge = std::numeric_limits<uint64_t>::max();

std::span<const std::byte> as_bytes(const std::string& text) {
    return std::as_bytes(std::span(text));
}

/// Keeps the bytes alive that a file looks at.
struct Opened {
    explicit Opened(const GgufBuilder& builder) : bytes(builder.bytes()), file(as_bytes(bytes)) {}
    std::string bytes;
    GgufFile file;
};

TEST(Gguf, ReadsNumbersOfEveryWidth) {
    const Opened o(small_file());
    EXPECT_EQ(o.file.integer("u8"), 200);
    EXPECT_EQ(o.file.integer("i8"), -100);
    EXPECT_EQ(o.file.integer("u16"), 60000);
    EXPECT_EQ(o.file.integer("i16"), -30000);
    EXPECT_EQ(o.file.integer("u32"), 4000000000);
    EXPECT_EQ(o.file.integer("i32"), -2000000000);
    EXPECT_EQ(o.file.integer("u64"), int64_t{1} << 40);
    EXPECT_EQ(o.file.integer("i64"), -(int64_t{1} << 40));
    EXPECT_EQ(o.file.number("f32"), 1.5);
    EXPECT_EQ(o.file.number("f64"), 0.25);
    EXPECT_EQ(o.file.number("u8"), 200.0);
}

TEST(Gguf, ReadsTruthAndText) {
    const Opened o(small_file());
    EXPECT_EQ(o.file.boolean("bool"), true);
    EXPECT_EQ(o.file.text("text"), "hello");
    EXPECT_EQ(o.file.text("general.architecture"), "llama");
}

TEST(Gguf, ReadsArrays) {
    const Opened o(small_file());
    EXPECT_EQ(o.file.texts("texts"), (std::vector<std::string_view>{"a", "", "bcd"}));
    EXPECT_EQ(o.file.integers("numbers"), (std::vector<int64_t>{1, -2, 3}));
    EXPECT_EQ(o.file.floats("numbers"), (std::vector<float>{1, -2, 3}));
    EXPECT_EQ(o.file.floats("floats"), (std::vector<float>{0.5F, -1.0F}));
}

TEST(Gguf, SaysNothingOfAbsentKeys) {
    const Opened o(small_file());
    EXPECT_FALSE(o.file.has("absent"));
    EXPECT_EQ(o.file.find("absent"), nullptr);
    EXPECT_EQ(o.file.integer("absent"), std::nullopt);
    EXPECT_EQ(o.file.number("absent"), std::nullopt);
    EXPECT_EQ(o.file.boolean("absent"), std::nullopt);
    EXPECT_EQ(o.file.text("absent"), std::nullopt);
    EXPECT_EQ(o.file.texts("absent"), std::nullopt);
    EXPECT_EQ(o.file.integers("absent"), std::nullopt);
    EXPECT_EQ(o.file.floats("absent"), std::nullopt);
}

TEST(Gguf, FindsTensorsByName) {
    const Opened o(small_file());
    ASSERT_EQ(o.file.tensors().size(), 2U);
    const GgufTensor* first = o.file.find_tensor("first");
    ASSERT_NE(first, nullptr);
    EXPECT_EQ(first->type, GGML_TYPE_F32);
    EXPECT_EQ(first->shape, (Shape{4, 2, 1, 1}));
    EXPECT_EQ(first->data.size(), 32U);
    EXPECT_EQ(std::memcmp(first->data.data(), small_file().tensor("first").data.data(), 32), 0);
    EXPECT_EQ(o.file.find_tensor("third"), nullptr);
}

TEST(Gguf, ReadsAFileWithoutKeysAndTensors) {
    const Opened o{GgufBuilder{}};
    EXPECT_TRUE(o.file.tensors().empty());
}

TEST(Gguf, AcceptsVersionTwo) {
    GgufBuilder f = small_file();
    f.version = 2;
    EXPECT_EQ(Opened(f).file.tensors().size(), 2U);
}

TEST(Gguf, FollowsTheFilesOwnAlignment) {
    GgufBuilder f = small_file();
    f.set("general.alignment", uint32_t{256}).alignment = 256;
    const Opened o(f);
    EXPECT_EQ((o.file.find_tensor("second")->data.data() - o.file.bytes().data()) % 256, 0);
}

TEST(Gguf, KeepsTheMappingOfAFileOpenedByName) {
    const testing::TemporaryFile file(small_file().bytes(), ".gguf");
    GgufFile opened = GgufFile::open(file.path());
    const GgufFile moved = std::move(opened);
    EXPECT_NE(moved.mapping(), nullptr);
    EXPECT_EQ(moved.find_tensor("second")->data.size(), 12U);
}

TEST(Gguf, NamesTheFileInItsErrors) {
    const testing::TemporaryFile file("not a model", ".gguf");
    try {
        (void)GgufFile::open(file.path());
        FAIL() << "it was read";
    } catch (const Error& e) {
        EXPECT_NE(std::string(e.what()).find(file.path()), std::string::npos) << e.what();
    }
}

TEST(Gguf, ShowsShapesWithoutTheirUnusedEnd) {
    EXPECT_EQ(to_string(Shape{576, 49152, 1, 1}), "[576, 49152]");
    EXPECT_EQ(to_string(Shape{1, 1, 1, 1}), "[1]");
    EXPECT_EQ(to_string(Shape{2, 1, 3, 1}), "[2, 1, 3]");
}

// Accessors that are asked for something else than the file holds.

struct WrongAsk {
    const char* name;
    std::function<void(const GgufFile&)> ask;
};

class WrongType : public ::testing::TestWithParam<WrongAsk> {};

TEST_P(WrongType, IsCorrupt) {
    GgufBuilder f = small_file();
    f.set("too_big", GGUF_TYPE_UINT64, raw(kHuge));
    const Opened o(f);
    try {
        GetParam().ask(o.file);
        FAIL() << "it was answered";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kCorrupt) << e.what();
    }
}

const WrongAsk kWrongAsks[] = {
    {"integer_of_text", [](const GgufFile& f) { (void)f.integer("text"); }},
    {"integer_of_float", [](const GgufFile& f) { (void)f.integer("f32"); }},
    {"integer_of_bool", [](const GgufFile& f) { (void)f.integer("bool"); }},
    {"integer_of_array", [](const GgufFile& f) { (void)f.integer("numbers"); }},
    {"integer_beyond_range", [](const GgufFile& f) { (void)f.integer("too_big"); }},
    {"number_of_text", [](const GgufFile& f) { (void)f.number("text"); }},
    {"number_of_bool", [](const GgufFile& f) { (void)f.number("bool"); }},
    {"number_of_array", [](const GgufFile& f) { (void)f.number("floats"); }},
    {"boolean_of_integer", [](const GgufFile& f) { (void)f.boolean("u8"); }},
    {"text_of_integer", [](const GgufFile& f) { (void)f.text("u8"); }},
    {"text_of_array", [](const GgufFile& f) { (void)f.text("texts"); }},
    {"texts_of_text", [](const GgufFile& f) { (void)f.texts("text"); }},
    {"texts_of_numbers", [](const GgufFile& f) { (void)f.texts("numbers"); }},
    {"integers_of_scalar", [](const GgufFile& f) { (void)f.integers("u8"); }},
    {"integers_of_floats", [](const GgufFile& f) { (void)f.integers("floats"); }},
    {"integers_of_texts", [](const GgufFile& f) { (void)f.integers("texts"); }},
    {"floats_of_scalar", [](const GgufFile& f) { (void)f.floats("f32"); }},
    {"floats_of_texts", [](const GgufFile& f) { (void)f.floats("texts"); }},
};

INSTANTIATE_TEST_SUITE_P(Gguf, WrongType, ::testing::ValuesIn(kWrongAsks),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace palimpsest
