// What is kept where flags name a budget only.

#include "cli/memory_flags.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "support/gguf_builder.h"
#include "support/golden.h"
#include "support/sidecar.h"

namespace palimpsest {
namespace {

MemoryShape shape() {
    return {.n_layer = 1, .n_head = 2, .n_head_kv = 1, .d_head = 8, .windows = {}, .n_embd = 16};
}

/// Weights that say which model they are for.
std::shared_ptr<const EvictionWeights> weights_of_this_model() {
    static const Backend kBackend(1);
    testing::GgufBuilder f = testing::small_sidecar(shape());
    f.set_text("evict.base_fingerprint", "this one");
    const testing::TemporaryFile file(f.bytes());
    return std::make_shared<const EvictionWeights>(
        file.path(), kBackend, shape(), BaseModel{.architecture = "", .fingerprint = "this one"});
}

EvictionOptions with_budget(const MemoryFlags& named = {}) {
    MemoryFlags flags = named;
    flags.budget = "64";
    return eviction_options(flags);
}

TEST(ChooseMemory, TheUsualPolicyAloneWhereNothingWasTrained) {
    EvictionOptions o = with_budget();
    EXPECT_EQ(choose_memory(o), "");
    EXPECT_EQ(o.policy, "snap-kv");
    EXPECT_EQ(o.residue, "none");
}

TEST(ChooseMemory, WhatWasTrainedTogetherGoesTogether) {
    EvictionOptions o = with_budget();
    o.learned = weights_of_this_model();
    const std::string told = choose_memory(o);
    EXPECT_EQ(o.policy, "gate");
    EXPECT_EQ(o.residue, "latent");
    EXPECT_NE(told.find("'gate'"), std::string::npos) << told;
    EXPECT_NE(told.find("'latent'"), std::string::npos) << told;
}

TEST(ChooseMemory, WeightsOfSomeModelAreNotUsedByThemselves) {
    EvictionOptions o = with_budget();
    o.learned = testing::small_weights(shape());
    EXPECT_EQ(choose_memory(o), "");
    EXPECT_EQ(o.policy, "snap-kv");
    EXPECT_EQ(o.residue, "none");
}

TEST(ChooseMemory, WhatIsNamedIsTaken) {
    MemoryFlags flags;
    flags.residue = "none";
    EvictionOptions o = with_budget(flags);
    o.learned = weights_of_this_model();
    EXPECT_EQ(choose_memory(o).find("'latent'"), std::string::npos);
    EXPECT_EQ(o.policy, "gate");
    EXPECT_EQ(o.residue, "none");

    flags = {};
    flags.policy = "window";
    o = with_budget(flags);
    o.learned = weights_of_this_model();
    EXPECT_EQ(choose_memory(o), "");
    EXPECT_EQ(o.policy, "window");
    EXPECT_EQ(o.residue, "none");

    flags.residue = "centroids";
    o = with_budget(flags);
    choose_memory(o);
    EXPECT_EQ(o.residue, "centroids");
}

TEST(ChooseMemory, NothingWithoutABudget) {
    MemoryFlags flags;
    flags.residue = "none";
    EXPECT_EQ(eviction_options(flags).policy, "full");
    flags.residue = "latent";
    EXPECT_THROW(eviction_options(flags), Error);
}

}  // namespace
}  // namespace palimpsest
