// How results reach the disk: outputs, files that grow, locks, files with a check sum.

#include "core/output_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "core/append_file.h"
#include "core/error.h"
#include "core/file_lock.h"
#include "core/sealed_file.h"
#include "core/whole_file.h"
#include "support/golden.h"
#include "support/task_files.h"

namespace palimpsest {
namespace {

namespace fs = std::filesystem;

template <typename Work>
Error error_of(Work work) {
    try {
        work();
    } catch (const Error& e) {
        return e;
    }
    return {ErrorCode::kInternal, "nothing was thrown"};
}

class Outputs : public ::testing::Test {
 protected:
    [[nodiscard]] std::string at(const std::string& name) const {
        return (fs::path(folder.path()) / name).string();
    }
    [[nodiscard]] std::ptrdiff_t n_files() const {
        return std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator());
    }
    testing::TemporaryFolder folder;
};

TEST_F(Outputs, TakeTheirPlaceWhenTheyAreFinished) {
    folder.write("x", "old");
    {
        OutputFile file(at("x"));
        file.add("ne");
        EXPECT_EQ(testing::read_text(at("x")), "old");
        file.add("w");
        file.finish();
    }
    EXPECT_EQ(testing::read_text(at("x")), "new");
    EXPECT_EQ(n_files(), 1);
}

TEST_F(Outputs, WithoutAnEndWereNever) {
    folder.write("x", "old");
    { OutputFile(at("x")).add("half"); }
    { OutputFile(at("y")).add("half"); }
    EXPECT_EQ(testing::read_text(at("x")), "old");
    EXPECT_EQ(n_files(), 1);
}

TEST_F(Outputs, FollowLinksThroughFolders) {
    fs::create_directory(at("a"));
    fs::create_directory_symlink("a", at("b"));
    fs::create_symlink("../b/x", at("a/link"));
    write_whole_file(at("b/link"), "text");
    EXPECT_TRUE(fs::is_symlink(at("a/link")));
    EXPECT_EQ(testing::read_text(at("a/x")), "text");
    fs::create_symlink("ring", at("ring"));
    EXPECT_EQ(error_of([&] { write_whole_file(at("ring"), "text"); }).code(),
              ErrorCode::kUnwritable);
}

TEST_F(Outputs, MayHaveNamesAsLongAsNamesCanBe) {
    const std::string name(255, 'n');
    write_whole_file(at(name), "text");
    EXPECT_EQ(testing::read_text(at(name)), "text");
}

TEST_F(Outputs, KeepTheMode) {
    folder.write("x", "old");
    chmod(at("x").c_str(), 0640);
    write_whole_file(at("x"), "new");
    struct stat info {};
    ASSERT_EQ(stat(at("x").c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777U, 0640U);
}

TEST_F(Outputs, ReadOnlyFilesStay) {
    if (geteuid() == 0) GTEST_SKIP() << "root may write everything";
    folder.write("x", "old");
    chmod(at("x").c_str(), 0444);
    EXPECT_EQ(error_of([&] { write_whole_file(at("x"), "new"); }).code(), ErrorCode::kUnwritable);
}

TEST_F(Outputs, OfAFullDeviceSaySo) {
    const Error e = error_of([] { write_whole_file("/dev/full", "text"); });
    EXPECT_EQ(e.code(), ErrorCode::kUnwritable);
    EXPECT_NE(std::string(e.what()).find("'/dev/full'"), std::string::npos);
}

TEST_F(Outputs, FilesThatGrowAreOneProcesss) {
    AppendFile file(at("x"));
    file.add("one\n");
    file.add("two\n");
    EXPECT_EQ(file.text(), "one\ntwo\n");
    file.cut(4);
    file.cut(400);
    EXPECT_EQ(file.text(), "one\n");
    const Error e = error_of([&] { AppendFile again(at("x")); });
    EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
    EXPECT_NE(std::string(e.what()).find(cat("process ", getpid())), std::string::npos) << e.what();
}

TEST_F(Outputs, FilesThatGrowMayBeDevices) {
    AppendFile file("/dev/null");
    file.add("text");
    file.cut(0);
    EXPECT_EQ(file.text(), "");
    AppendFile again("/dev/null");
    EXPECT_EQ(error_of([] { AppendFile("/dev/full").add("text"); }).code(), ErrorCode::kUnwritable);
}

TEST_F(Outputs, AFolderIsOneProcesss) {
    {
        const FolderLock lock(at("work"));
        EXPECT_EQ(error_of([&] { FolderLock again(at("work")); }).code(),
                  ErrorCode::kInvalidArgument);
    }
    const FolderLock free(at("work"));
    folder.write("file", "");
    EXPECT_EQ(error_of([&] { FolderLock no(at("file")); }).code(), ErrorCode::kUnwritable);
}

TEST_F(Outputs, SealedOnesShowDamage) {
    const std::string path = at("x");
    EXPECT_EQ(read_sealed(path), std::nullopt);
    for (const std::string& content : {std::string(), std::string("text"), std::string(999, 'x')}) {
        write_sealed(path, content);
        EXPECT_EQ(read_sealed(path), content);
        const std::string whole = testing::read_text(path);
        for (size_t i = 0; i < whole.size(); i += 7) {
            std::string changed = whole;
            changed[i] ^= 4;
            folder.write("x", changed);
            EXPECT_EQ(error_of([&] { static_cast<void>(read_sealed(path)); }).code(),
                      ErrorCode::kCorrupt);
            folder.write("x", whole.substr(0, i));
            EXPECT_EQ(error_of([&] { static_cast<void>(read_sealed(path)); }).code(),
                      ErrorCode::kCorrupt);
        }
        fs::remove(path);
    }
}

}  // namespace
}  // namespace palimpsest
