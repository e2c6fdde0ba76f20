// The indexer where one layer scores for several.

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "memory/kv_cache.h"
#include "support/reference_attention.h"
#include "support/sidecar.h"

namespace palimpsest {
namespace {

using testing::MemoryScript;

MemoryShape shape_of() {
    return {.n_layer = 4, .n_head = 4, .n_head_kv = 2, .d_head = 32, .windows = {}, .n_embd = 48};
}

struct Counted {
    int64_t unscored = 0;  // entries without a score, in all cuts
    int64_t others = 0;    // entries whose score is another than the first layer gives their token
};

/// Of layers that share a scorer, or do not; heads keep as many as their attention needs, so layers
/// hold different ones.
Counted count(const char* reuse) {
    constexpr int64_t kLength = 200;
    const MemoryScript script(shape_of(), kLength);
    Backend backend(2);
    Counted counted;
    int64_t n_differing = 0;
    EvictionOptions e = {.policy = "indexer", .allocator = "mass", .residue = "none"};
    e.settings = {{"reuse", reuse}, {"mass-floor", "1"}};
    e.budget = {.kind = Budget::Kind::kEntries, .count = 48, .share = 0};
    e.n_recent = 4;
    e.n_chunk = 32;
    e.learned = testing::small_weights(shape_of());
    e.on_cut = [&](const Cut& cut) {
        std::map<int32_t, float> first;
        for (size_t l = 0; l < cut.held.size(); ++l) {
            n_differing += cut.held[l] != cut.held[0] ? 1 : 0;
            for (size_t h = 0; h < cut.scores[l].size(); ++h) {
                for (size_t i = 0; i < cut.scores[l][h].size(); ++i) {
                    const float s = cut.scores[l][h][i];
                    counted.unscored += std::isfinite(s) ? 0 : 1;
                    const auto [at, is_new] = first.try_emplace(cut.held[l][h][i], s);
                    counted.others += at->second != s ? 1 : 0;
                }
            }
        }
    };
    KvCache memory(backend, shape_of(),
                   {.n_ctx = 512, .entries = GGML_TYPE_F32, .eviction = std::move(e)});
    script.run(backend, memory, 32);
    EXPECT_GT(n_differing, 0);
    return counted;
}

TEST(Indexer, RowsStayAsLongAsAnyLayerHoldsThem) {
    for (const char* reuse : {"1", "2", "4"}) EXPECT_EQ(count(reuse).unscored, 0) << reuse;
}

TEST(Indexer, ALayerScoresForItsGroup) {
    const int64_t apart = count("1").others;
    const int64_t in_pairs = count("2").others;
    EXPECT_GT(apart, in_pairs);
    EXPECT_GT(in_pairs, 0);
    EXPECT_EQ(count("4").others, 0);
}

}  // namespace
}  // namespace palimpsest
