// Memory that the system sees, while inputs grow.

#include <gtest/gtest.h>

#include <sstream>

#include "bench/process.h"
#include "core/error.h"
#include "support/tiny_model.h"

namespace palimpsest {
namespace {

using testing::tiny_tokens;
using testing::TinyModel;

/// Peak of a process that reads `n` tokens within a budget.
size_t peak_of(const std::string& policy, int64_t n) {
    const std::string line = in_own_process([&] {
        TinyModel tiny({.n_head_kv = 4, .d_head = 128});
        EvictionOptions eviction = {.policy = policy};
        if (policy == "snap-kv") eviction.settings = {{"window", "16"}};
        eviction.budget = {.kind = Budget::Kind::kEntries, .count = 96, .share = 0};
        eviction.interval = 64;
        Session session(
            tiny.model(), tiny.backend(),
            make_memory("kv", tiny.backend(), tiny.shape(),
                        {.n_ctx = 256, .eviction = eviction, .supplies = {.n_chunk = 64}}),
            {.n_chunk = 64});
        const std::vector<TokenId> tokens = tiny_tokens(1024);
        for (int64_t at = 0; at < n; at += 1024) session.feed(tokens);
        return cat(peak_resident_bytes());
    });
    size_t bytes = 0;
    std::istringstream(line) >> bytes;
    return bytes;
}

// Without a budget 57,344 more tokens would take 235 MB here. With one there is the list of ids
// that were read, 4 bytes each, which grows by doubling.
TEST(Resident, StaysFlatHoweverLongTheInput) {
    if (peak_resident_bytes() == 0) GTEST_SKIP() << "the system does not say";
    for (const char* policy : {"window", "snap-kv", "h2o", "key-norm"}) {
        const size_t small = peak_of(policy, 8192);
        EXPECT_LE(peak_of(policy, 65536), small + 1000000) << policy;
    }
}

}  // namespace
}  // namespace palimpsest
