// Layers described one by one, and who serves which.

#include <gtest/gtest.h>

#include <string>

#include "core/error.h"
#include "memory/cache/memories.h"
#include "support/reference_attention.h"

namespace palimpsest {
namespace {

using testing::MemoryScript;

TEST(MemoryShapes, OfLikeLayersAreTheSameEitherWay) {
    const MemoryShape plain = {
        .n_layer = 2, .n_head = 4, .n_head_kv = 2, .d_head = 32, .windows = {16, 0}};
    MemoryShape each = plain;
    each.windows = {};
    each.layers = {plain.layer(0), plain.layer(1)};
    for (const int64_t i : {0, 1}) {
        EXPECT_EQ(each.window(i), plain.window(i));
        EXPECT_TRUE(each.attends(i));
    }
    EXPECT_TRUE(each.slides());
    EXPECT_EQ(unlike_layer(each), "");
    Backend backend(1);
    const MemoryScript script(plain, 60);
    const auto answers = [&](const MemoryShape& shape) {
        const auto memory =
            make_memory("kv", backend, shape, {.n_ctx = 64, .entries = GGML_TYPE_F32});
        return script.run(backend, *memory, 20);
    };
    EXPECT_EQ(answers(each), answers(plain));
}

TEST(MemoryShapes, AreRefusedWhereLayersAreUnlike) {
    Backend backend(1);
    const AttentionLayer usual = {.n_head_kv = 2, .d_head = 32};
    const auto refusal = [&](const LayerShape& second) -> std::string {
        const MemoryShape shape = {.n_layer = 2,
                                   .n_head = 4,
                                   .n_head_kv = 2,
                                   .d_head = 32,
                                   .windows = {},
                                   .layers = {usual, second}};
        try {
            KvCache(backend, shape, {.n_ctx = 64});
        } catch (const Error& e) {
            EXPECT_EQ(e.code(), ErrorCode::kUnsupported);
            EXPECT_THROW(make_memory("kv", backend, shape, {.n_ctx = 64}), Error);
            return e.what();
        }
        return "";
    };
    EXPECT_EQ(refusal(usual), "");
    EXPECT_NE(refusal(AttentionLayer{.n_head_kv = 1, .d_head = 32}).find("layer 1 has 1 KV"),
              std::string::npos);
    EXPECT_NE(refusal(AttentionLayer{.n_head_kv = 2, .d_head = 64}).find("64 channels"),
              std::string::npos);
    EXPECT_NE(
        refusal(AttentionLayer{.n_head_kv = 2, .d_head = 32, .has_sinks = true}).find("sinks"),
        std::string::npos);
    EXPECT_NE(refusal(RecurrentLayer{.kind = "decayed-sum", .n_head = 1}).find("decayed-sum"),
              std::string::npos);
}

}  // namespace
}  // namespace palimpsest
