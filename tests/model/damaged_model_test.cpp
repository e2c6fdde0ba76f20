// Model files damaged at random places: they load or they are refused, and what loads also runs.
// A crash ends the test program, so the seed is printed first when a run is repeated by hand.

#include <gtest/gtest.h>

#include <random>

#include "core/error.h"
#include "support/gguf_builder.h"
#include "support/golden.h"
#include "support/use_model.h"

namespace palimpsest {
namespace {

using testing::GgufBuilder;

struct Outcome {
    int loaded = 0, refused = 0;
};

void try_model(const std::string& bytes, Backend& backend, Outcome& outcome) {
    const testing::TemporaryFile file(bytes, ".gguf");
    try {
        const LoadedModel loaded(file.path(), backend);
        ++outcome.loaded;
        testing::use_model(loaded, backend);
    } catch (const Error& e) {
        EXPECT_NE(e.code(), ErrorCode::kInternal) << e.what();
        ++outcome.refused;
    }
}

/// Changes one to four bytes before `end`: a flipped bit, another byte, or a neighbour's value.
std::string damaged(std::string bytes, size_t begin, size_t end, std::mt19937& random) {
    const uint32_t n = 1 + random() % 4;
    for (uint32_t i = 0; i < n; ++i) {
        const size_t at = begin + random() % (end - begin);
        const std::string values = {static_cast<char>(bytes[at] ^ (1 << (random() % 8))),
                                    static_cast<char>(random()), '\0', '\xFF'};
        bytes[at] = values[random() % values.size()];
    }
    return bytes;
}

Outcome damage(const GgufBuilder& file, size_t begin, int n_seeds) {
    const std::string bytes = file.bytes();
    const size_t end = file.header().size();
    Backend backend(1);
    Outcome outcome;
    for (int seed = 0; seed < n_seeds; ++seed) {
        std::mt19937 random(static_cast<uint32_t>(seed));
        try_model(damaged(bytes, begin, end, random), backend, outcome);
    }
    ::testing::Test::RecordProperty("loaded", outcome.loaded);
    return outcome;
}

class DamagedModel : public ::testing::TestWithParam<const char*> {};

TEST_P(DamagedModel, LoadsOrIsRefused) {
    REQUIRE_ORACLES();
    const GgufBuilder f = testing::taken_apart(
        testing::read_text(*oracle_folder / "families" / GetParam() / "model.gguf"));
    EXPECT_GT(damage(f, 0, 400).refused, 0);
}

INSTANTIATE_TEST_SUITE_P(Families, DamagedModel,
                         ::testing::Values("llama", "llama_rope3", "mistral", "qwen2", "qwen3",
                                           "gemma3"),
                         [](const auto& test) { return std::string(test.param); });

/// Where the vocabulary begins in a file's bytes.
size_t vocabulary(const GgufBuilder& f) { return f.header().find("tokenizer.ggml.model") - 8; }

TEST(DamagedVocabulary, OfBytePairsLoadsOrIsRefused) {
    GgufBuilder f = testing::tiny_llama(testing::kTinyBpeTokens);
    testing::add_bpe_vocabulary(f);
    EXPECT_GT(damage(f, vocabulary(f), 600).loaded, 0);
}

TEST(DamagedVocabulary, OfSentencePiecesLoadsOrIsRefused) {
    GgufBuilder f = testing::tiny_llama(testing::kTinySpmTokens);
    testing::add_spm_vocabulary(f);
    EXPECT_GT(damage(f, vocabulary(f), 600).loaded, 0);
}

}  // namespace
}  // namespace palimpsest
