// The indexer where one layer scores for several.

#include <gtest/gtest.h>

#include <cmath>

#include "memory/kv_cache.h"
#include "support/reference_attention.h"
#include "support/sidecar.h"

namespace palimpsest {
namespace {

using testing::MemoryScript;

MemoryShape shape_of() {
    return {.n_layer = 4, .n_head = 4, .n_head_kv = 2, .d_head = 32, .windows = {}, .n_embd = 48};
}

/// Entries that had no score in any cut, of layers that share a scorer; heads keep as many as their
/// attention needs, so layers hold different ones.
int64_t count_unscored(const char* reuse) {
    constexpr int64_t kLength = 200;
    const MemoryScript script(shape_of(), kLength);
    Backend backend(2);
    int64_t n_unscored = 0;
    int64_t n_differing = 0;
    EvictionOptions e = {.policy = "indexer", .allocator = "mass", .residue = "none"};
    e.settings = {{"reuse", reuse}, {"mass-floor", "1"}};
    e.budget = {.kind = Budget::Kind::kEntries, .count = 48, .share = 0};
    e.n_recent = 4;
    e.n_chunk = 32;
    e.learned = testing::small_weights(shape_of());
    e.on_cut = [&](const Cut& cut) {
        for (size_t l = 0; l < cut.held.size(); ++l) {
            n_differing += cut.held[l] != cut.held[0] ? 1 : 0;
            for (const auto& of : cut.scores[l]) {
                for (const float s : of) n_unscored += std::isfinite(s) ? 0 : 1;
            }
        }
    };
    KvCache memory(backend, shape_of(),
                   {.n_ctx = 512, .entries = GGML_TYPE_F32, .eviction = std::move(e)});
    script.run(backend, memory, 32);
    EXPECT_GT(n_differing, 0);
    return n_unscored;
}

TEST(Indexer, RowsStayAsLongAsAnyLayerHoldsThem) {
    EXPECT_EQ(count_unscored("1"), 0);
    EXPECT_EQ(count_unscored("2"), 0);
    EXPECT_EQ(count_unscored("4"), 0);
}

}  // namespace
}  // namespace palimpsest
