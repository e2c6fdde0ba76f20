#include "core/mapped_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string_view>
#include <utility>

#include "core/error.h"
#include "support/golden.h"

namespace palimpsest {
namespace {

std::string_view as_text(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// The code of the error that opening gives, and that its message names the file.
ErrorCode refusal(const std::string& path) {
    try {
        const MappedFile file(path);
    } catch (const Error& e) {
        EXPECT_NE(std::string(e.what()).find(path), std::string::npos) << e.what();
        return e.code();
    }
    ADD_FAILURE() << path << " was opened";
    return ErrorCode::kInternal;
}

TEST(MappedFile, HoldsTheWholeFile) {
    const testing::TemporaryFile file("some bytes");
    EXPECT_EQ(as_text(MappedFile(file.path()).bytes()), "some bytes");
}

TEST(MappedFile, CanBeMoved) {
    const testing::TemporaryFile first("first");
    const testing::TemporaryFile second("second");
    MappedFile a(first.path());
    MappedFile b(std::move(a));
    b = MappedFile(second.path());
    EXPECT_EQ(as_text(b.bytes()), "second");
}

TEST(MappedFile, ReadsAgainWhatItForgot) {
    const testing::TemporaryFile file(std::string(100000, 'x'));
    const MappedFile mapped(file.path());
    ASSERT_EQ(mapped.bytes()[50000], std::byte{'x'});
    mapped.forget(mapped.bytes());
    EXPECT_EQ(mapped.bytes()[50000], std::byte{'x'});
}

TEST(MappedFile, ForgetsNothingOfLessThanAPage) {
    const testing::TemporaryFile file("short");
    const MappedFile mapped(file.path());
    mapped.forget(mapped.bytes().subspan(1, 2));
    mapped.forget(mapped.bytes().subspan(0, 0));
    EXPECT_EQ(as_text(mapped.bytes()), "short");
}

TEST(MappedFile, SaysThatAFileIsMissing) {
    EXPECT_EQ(refusal("no/such/file"), ErrorCode::kNotFound);
}

TEST(MappedFile, RefusesADirectory) {
    EXPECT_EQ(refusal(std::filesystem::temp_directory_path().string()), ErrorCode::kNotFound);
}

TEST(MappedFile, RefusesAnEmptyFile) {
    const testing::TemporaryFile file("");
    EXPECT_EQ(refusal(file.path()), ErrorCode::kCorrupt);
}

TEST(MappedFile, RefusesADevice) { EXPECT_EQ(refusal("/dev/null"), ErrorCode::kNotFound); }

TEST(MappedFile, DoesNotWaitForANamedPipe) {
    const std::string path =
        (std::filesystem::temp_directory_path() / ("palimpsest-pipe-" + std::to_string(getpid())))
            .string();
    ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
    EXPECT_EQ(refusal(path), ErrorCode::kNotFound);
    std::filesystem::remove(path);
}

TEST(MappedFile, RefusesAFileItMayNotRead) {
    if (geteuid() == 0) GTEST_SKIP() << "root may read everything";
    const testing::TemporaryFile file("secret");
    ASSERT_EQ(chmod(file.path().c_str(), 0), 0);
    EXPECT_EQ(refusal(file.path()), ErrorCode::kNotFound);
}

}  // namespace
}  // namespace palimpsest
