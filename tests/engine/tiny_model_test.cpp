// The model built in code is what the other tests take it for.

#include "support/tiny_model.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

namespace palimpsest {
namespace {

using testing::tiny_model_bytes;
using testing::tiny_tokens;
using testing::TinyModel;
using testing::write_greedily;

TEST(TinyModel, IsTheSameEveryTime) { EXPECT_EQ(tiny_model_bytes(), tiny_model_bytes()); }

TEST(TinyModel, AnotherSeedIsAnotherModel) {
    EXPECT_NE(tiny_model_bytes(), tiny_model_bytes({.seed = 2}));
}

TEST(TinyModel, HasNoVocabulary) {
    const testing::TemporaryFile file = testing::tiny_model_file();
    const Backend backend(1);
    EXPECT_EQ(LoadedModel(file.path(), backend).tokenizer(), nullptr);
}

TEST(TinyModel, HasTheWindowsAskedFor) {
    const TinyModel m({.architecture = "gemma3", .n_layer = 3, .window = 5, .window_period = 3});
    EXPECT_EQ(m.shape().windows, (std::vector<int64_t>{5, 5, 0}));
}

TEST(TinyModel, DoesNotSayTheSameWhateverItReads) {
    TinyModel m;
    Session a = m.session();
    Session b = m.session();
    a.feed(tiny_tokens(20, 1));
    b.feed(tiny_tokens(20, 2));
    EXPECT_NE(write_greedily(a, 8), write_greedily(b, 8));
}

// The package's test needs a model and what it says; it asks for them here.
TEST(TinyModel, IsWrittenWhereAsked) {
    // Nothing here changes the environment. NOLINTNEXTLINE(concurrency-mt-unsafe)
    const char* path = std::getenv("PALIMPSEST_WRITE_TINY_MODEL");
    if (path == nullptr) GTEST_SKIP() << "PALIMPSEST_WRITE_TINY_MODEL names no file";
    std::ofstream(path, std::ios::binary) << tiny_model_bytes();
    TinyModel m;
    Session session = m.session(m.memory(GGML_TYPE_F16));
    session.feed(std::vector<TokenId>{1, 2, 3});
    std::ofstream expected(std::string(path) + ".txt");
    for (const TokenId token : write_greedily(session, 8)) expected << token << ' ';
    EXPECT_TRUE(expected);
}

}  // namespace
}  // namespace palimpsest
