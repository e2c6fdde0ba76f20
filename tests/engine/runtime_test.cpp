// The one place where memories are put together.

#include "engine/runtime.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "support/tiny_build.h"
#include "support/tiny_model.h"

namespace palimpsest {
namespace {

using testing::code_of;
using testing::tiny_tokens;
using testing::TinyModel;

TEST(Runtime, AChoiceOfNothingKeepsAll) {
    TinyModel tiny;
    const MemoryPlan plan = tiny.runtime().plan({});
    EXPECT_TRUE(plan.notes.empty());
    EXPECT_EQ(plan.options.eviction.policy, "full");
    EXPECT_EQ(plan.options.n_ctx, tiny.loaded().config().n_ctx_train);
}

TEST(Runtime, SaysWhatAUserShouldKnow) {
    TinyModel tiny;
    const MemoryPlan plan = tiny.runtime().plan({.context = 1000});
    ASSERT_EQ(plan.notes.size(), 1);
    EXPECT_NE(plan.notes[0].find("1000"), std::string::npos) << plan.notes[0];
}

TEST(Runtime, RefusesWhatItDoesNotKnow) {
    TinyModel tiny;
    const auto code = [&](const MemoryChoice& c) {
        return code_of([&] { static_cast<void>(tiny.runtime().plan(c)); });
    };
    EXPECT_EQ(code({.entries = "f15"}), ErrorCode::kInvalidArgument);
    EXPECT_EQ(code({.attention = "slow"}), ErrorCode::kInvalidArgument);
    EXPECT_EQ(code({.budget = "64", .sidecar = "no/such"}), ErrorCode::kNotFound);
    EXPECT_EQ(code({.prefixes = {"no/such"}}), ErrorCode::kNotFound);
    EXPECT_EQ(code({.prefix_gate = true}), ErrorCode::kInvalidArgument);
}

/// Every allocator and every policy has what it needs, whoever asks.
TEST(Runtime, SuppliesWhatPoliciesAndAllocatorsNeed) {
    TinyModel tiny;
    for (const char* policy :
         {"snap-kv/critical:window=8", "h2o/critical-adaptive", "kvzip", "leverage"}) {
        SCOPED_TRACE(policy);
        const Runtime engine(tiny.loaded(), tiny.backend(), 128);
        const MemoryPlan plan =
            engine.plan({.budget = "64", .policy = policy, .n_recent = 8, .context = 256});
        const auto session = engine.make_session(engine.make_cache(plan.options));
        session->feed(tiny_tokens(200));
        EXPECT_GT(session->memory().report().n_cuts, 0);
    }
}

}  // namespace
}  // namespace palimpsest
