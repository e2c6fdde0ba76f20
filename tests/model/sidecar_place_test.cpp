// Which trained weights belong to a model that nobody named any for.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "model/load.h"
#include "support/gguf_builder.h"
#include "support/golden.h"

namespace palimpsest {
namespace {

namespace fs = std::filesystem;

class SidecarAmong : public ::testing::Test {
 protected:
    void put(const std::string& name, const std::string& fingerprint) {
        testing::GgufBuilder file;
        file.set_text("general.architecture", "evict");
        file.set_text("evict.base_fingerprint", fingerprint);
        std::ofstream(path(name), std::ios::binary) << file.bytes();
    }
    [[nodiscard]] std::string among(const std::string& fingerprint) const {
        return fs::path(sidecar_among(folder_.path(), fingerprint)).filename().string();
    }

    [[nodiscard]] std::string path(const std::string& name) const {
        return folder_.path() + "/" + name;
    }

    testing::TemporaryFolder folder_;
};

TEST_F(SidecarAmong, IsFoundByTheModelNotByItsName) {
    put("one.evict.gguf", "1111");
    put("two.evict.gguf", "2222");
    EXPECT_EQ(among("2222"), "two.evict.gguf");
    EXPECT_EQ(among("3333"), "");
}

TEST_F(SidecarAmong, OtherFilesAreNotLookedAt) {
    std::ofstream(path("notes.txt")) << "no GGUF";
    put("two.latent-4x.gguf", "2222");
    EXPECT_EQ(among("2222"), "");
    EXPECT_EQ(sidecar_among(path("absent"), "2222"), "");
}

}  // namespace
}  // namespace palimpsest
