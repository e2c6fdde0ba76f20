// Every family against golden vectors from another implementation.

#include "support/golden.h"

#include <gtest/gtest.h>

#include "engine/session.h"
#include "memory/cache/memories.h"
#include "model/load.h"

namespace palimpsest {
namespace {

struct GoldenCase {
    const char* folder;
    double tolerance;
    AttentionPath path;
    int64_t chunk;
};

// 2e-3 is the vectors' own tolerance; f32 arithmetic lands near 1e-5, and so must we. Gemma's GELU
// goes through ggml's half-precision table: 4e-3 as the vectors' notes say.
class Golden : public ::testing::TestWithParam<GoldenCase> {};

TEST_P(Golden, LogitsOfAllPositions) {
    REQUIRE_ORACLES();
    const GoldenCase& c = GetParam();
    const auto folder = *oracle_folder / "families" / c.folder;
    const nlohmann::json golden = testing::read_json(folder / "golden.json");
    const std::vector<float> expected = testing::read_f32(folder / "logits.f32");

    Backend backend(2);
    const LoadedModel loaded((folder / "model.gguf").string(), backend);
    const KvCacheOptions options = {.n_ctx = 128, .entries = GGML_TYPE_F32, .path = c.path};
    Session session(loaded.model(), backend,
                    make_memory("kv", backend, loaded.config().memory_shape(), options),
                    {.n_chunk = c.chunk});
    std::vector<float> logits;
    session.feed(golden["tokens"].get<std::vector<TokenId>>(),
                 {.on_progress = {}, .on_logits = [&](int64_t, std::span<const float> row) {
                      logits.insert(logits.end(), row.begin(), row.end());
                  }});
    EXPECT_LE(testing::max_difference(logits, expected), c.tolerance);
}

std::vector<GoldenCase> all_cases() {
    std::vector<GoldenCase> cases;
    for (const AttentionPath path : {AttentionPath::kFused, AttentionPath::kReference}) {
        for (const int64_t chunk : {64, 7, 1}) {
            for (const char* folder : {"llama", "llama_rope3", "mistral", "qwen2", "qwen3"}) {
                cases.push_back({folder, 1e-4, path, chunk});
            }
            cases.push_back({"gemma3", 4e-3, path, chunk});
        }
    }
    return cases;
}

INSTANTIATE_TEST_SUITE_P(Families, Golden, ::testing::ValuesIn(all_cases()), [](const auto& test) {
    return std::string(test.param.folder) +
           (test.param.path == AttentionPath::kFused ? "_fused_" : "_reference_") +
           std::to_string(test.param.chunk);
});

}  // namespace
}  // namespace palimpsest
