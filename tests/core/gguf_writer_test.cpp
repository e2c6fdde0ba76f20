// What is written can be read, and what cannot be written leaves what was there.

#include "core/gguf_writer.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <limits>

#include "core/error.h"
#include "core/whole_file.h"
#include "support/gguf_builder.h"
#include "support/golden.h"

namespace palimpsest {
namespace {

using testing::TemporaryFile;

ErrorCode code_of(const std::function<void()>& act) {
    try {
        act();
    } catch (const Error& e) {
        return e.code();
    }
    return ErrorCode::kInternal;
}

TEST(GgufWriter, WritesKeysAndTensors) {
    const TemporaryFile file("old");
    GgufWriter w;
    w.set_text("a.text", "first");
    w.set_text("a.text", "second");
    w.set_integer("a.integer", -5000000000);
    w.set_count("a.count", 7);
    w.set_number("a.number", 0.5F);
    w.set_boolean("a.flag", true);
    w.add("one", {3, 2, 1, 1}, std::vector<float>{1, 2, 3, 4, 5, 6});
    w.add("two", {5, 1, 1, 1}, std::vector<float>{0.5F, -1, 2, 1000, 0}, GGML_TYPE_F16);
    w.add("three", {1, 1, 1, 1}, std::vector<float>{9});
    w.write(file.path());

    const GgufFile f = GgufFile::open(file.path());
    EXPECT_EQ(f.text("a.text"), "second");
    EXPECT_EQ(f.integer("a.integer"), -5000000000);
    EXPECT_EQ(f.integer("a.count"), 7);
    EXPECT_EQ(f.number("a.number"), 0.5);
    EXPECT_EQ(f.boolean("a.flag"), true);
    ASSERT_EQ(f.tensors().size(), 3U);
    const GgufTensor* one = f.find_tensor("one");
    ASSERT_NE(one, nullptr);
    EXPECT_EQ(one->shape, (Shape{3, 2, 1, 1}));
    float last = 0;
    std::memcpy(&last, one->data.data() + 5 * sizeof last, sizeof last);
    EXPECT_EQ(last, 6.0F);
    const GgufTensor* two = f.find_tensor("two");
    ASSERT_NE(two, nullptr);
    EXPECT_EQ(two->type, GGML_TYPE_F16);
    ggml_fp16_t half = 0;
    std::memcpy(&half, two->data.data() + 3 * sizeof half, sizeof half);
    EXPECT_EQ(ggml_fp16_to_fp32(half), 1000.0F);
}

TEST(GgufWriter, CopiesWhatAnotherFileHas) {
    const TemporaryFile from(testing::small_file().bytes());
    const TemporaryFile to("");
    const GgufFile source = GgufFile::open(from.path());
    GgufWriter w;
    for (const GgufTensor& t : source.tensors()) w.add_copy(t);
    w.set_integer("k", 3);
    w.write(to.path());
    const GgufFile copy = GgufFile::open(to.path());
    ASSERT_EQ(copy.tensors().size(), source.tensors().size());
    for (const GgufTensor& t : source.tensors()) {
        const GgufTensor* same = copy.find_tensor(t.name);
        ASSERT_NE(same, nullptr);
        EXPECT_EQ(same->type, t.type);
        EXPECT_EQ(same->shape, t.shape);
        EXPECT_TRUE(std::ranges::equal(same->data, t.data));
    }
}

TEST(GgufWriter, RefusesWhatCannotBe) {
    GgufWriter w;
    const std::vector<float> two = {1, 2};
    w.add("taken", {2, 1, 1, 1}, two);
    const auto refuses = [&](const std::string& name, const Shape& shape,
                             const std::vector<float>& values, ggml_type type = GGML_TYPE_F32) {
        return code_of([&] { w.add(name, shape, values, type); });
    };
    EXPECT_EQ(refuses("taken", {2, 1, 1, 1}, two), ErrorCode::kInvalidArgument);
    EXPECT_EQ(refuses("", {2, 1, 1, 1}, two), ErrorCode::kInvalidArgument);
    EXPECT_EQ(refuses(std::string(100, 'x'), {2, 1, 1, 1}, two), ErrorCode::kInvalidArgument);
    EXPECT_EQ(refuses("short", {3, 1, 1, 1}, two), ErrorCode::kInvalidArgument);
    EXPECT_EQ(refuses("none", {0, 1, 1, 1}, {}), ErrorCode::kInvalidArgument);
    const float infinite = std::numeric_limits<float>::infinity();
    EXPECT_EQ(refuses("inf", {1, 1, 1, 1}, {infinite}), ErrorCode::kInvalidArgument);
    EXPECT_EQ(refuses("huge", {1, 1, 1, 1}, {1e6F}, GGML_TYPE_F16), ErrorCode::kInvalidArgument);
    EXPECT_EQ(refuses("q", {2, 1, 1, 1}, two, GGML_TYPE_Q8_0), ErrorCode::kUnsupported);
    EXPECT_EQ(code_of([&] { w.set_text("", "x"); }), ErrorCode::kInvalidArgument);
}

TEST(WholeFile, MissingFolderIsSaid) {
    EXPECT_EQ(code_of([] { write_whole_file("no/such/folder/file", "text"); }),
              ErrorCode::kUnwritable);
}

/// A limit on a file's size fails writes as a full disk does.
TEST(WholeFile, FullDiskLeavesWhatWasThere) {
    const TemporaryFile file("the last good one");
    rlimit before{};
    ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
    rlimit small = before;
    small.rlim_cur = 4096;
    const auto old = std::signal(SIGXFSZ, SIG_IGN);
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    const ErrorCode code =
        code_of([&] { write_whole_file(file.path(), std::string(100000, 'x')); });
    setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, old);
    EXPECT_EQ(code, ErrorCode::kUnwritable);
    EXPECT_EQ(testing::read_text(file.path()), "the last good one");
    const std::filesystem::path path = file.path();
    for (const auto& beside : std::filesystem::directory_iterator(path.parent_path())) {
        EXPECT_FALSE(beside.path().filename().string().starts_with(path.filename().string() + "."))
            << beside.path();
    }
}

}  // namespace
}  // namespace palimpsest
