// Memories named in one word, and what a choice comes to.

#include "engine/memory_choice.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "bench/quality/quality.h"
#include "core/error.h"
#include "memory/policy/policies.h"
#include "support/golden.h"
#include "support/sidecar.h"

namespace palimpsest {
namespace {

TEST(MemorySpec, APolicyAloneHasItsOwnAllocator) {
    const EvictionOptions o = parse_memory_spec("pyramid-kv");
    EXPECT_EQ(o.policy, "pyramid-kv");
    EXPECT_EQ(o.allocator, "pyramid");
    EXPECT_EQ(o.residue, "none");
    EXPECT_TRUE(o.settings.empty());
}

TEST(MemorySpec, EveryPartIsRead) {
    const EvictionOptions o = parse_memory_spec("snap-kv/adaptive+merge:window=32;kernel=7");
    EXPECT_EQ(o.policy, "snap-kv");
    EXPECT_EQ(o.allocator, "adaptive");
    EXPECT_EQ(o.residue, "merge");
    EXPECT_EQ(settings_text(o.settings), "kernel=7,window=32");
}

TEST(MemorySpec, UnknownNamesAreRefusedWithTheNearest) {
    for (const auto& [text, hint] : {std::pair{"snapkv", "snap-kv"},
                                     {"snap-kv/adaptve", "adaptive"},
                                     {"snap-kv+merg", "merge"}}) {
        try {
            parse_memory_spec(text);
            ADD_FAILURE() << text << " was taken";
        } catch (const Error& e) {
            EXPECT_EQ(e.code(), ErrorCode::kNotFound);
            EXPECT_NE(std::string(e.what()).find(hint), std::string::npos) << e.what();
        }
    }
    EXPECT_THROW(parse_memory_spec("snap-kv:window"), Error);
    EXPECT_THROW(parse_memory_spec(""), Error);
}

TEST(MemorySpec, AllIsEveryPolicyThatEvicts) {
    const MemoryShape shape = {
        .n_layer = 1, .n_head = 2, .n_head_kv = 1, .d_head = 8, .windows = {}, .n_embd = 16};
    const auto all = testing::small_weights(shape);
    EXPECT_EQ(parse_memory_specs({"all"}, all.get()).size() + 1, policy_kinds().size());
    // Those whose weights are not there are left out.
    const auto memory_alone = testing::small_softmax_memory(shape);
    EXPECT_EQ(parse_memory_specs({"all"}, memory_alone.get()).size() + 3, policy_kinds().size());
    EXPECT_EQ(parse_memory_specs({"all"}, nullptr).size() + 3, policy_kinds().size());
}

TEST(MemorySpec, WeightsSayHowTheyShareUnlessTheUserDoes) {
    const MemoryShape shape = {
        .n_layer = 1, .n_head = 2, .n_head_kv = 1, .d_head = 8, .windows = {}, .n_embd = 16};
    const Backend backend(1);
    testing::GgufBuilder file = testing::small_sidecar(shape);
    file.set_text("evict.indexer.allocator", "global");
    const testing::TemporaryFile on_disk(file.bytes());
    const EvictionWeights learned(on_disk.path(), backend, shape, BaseModel{});
    EXPECT_EQ(parse_memory_spec("indexer").allocator, "uniform");
    EXPECT_EQ(parse_memory_spec("indexer", &learned).allocator, "global");
    EXPECT_EQ(parse_memory_spec("indexer/adaptive", &learned).allocator, "adaptive");
    EXPECT_EQ(parse_memory_spec("window", &learned).allocator, "uniform");
    EXPECT_EQ(parse_memory_specs({"indexer+latent"}, &learned)[0].allocator, "global");
}

QualityOptions some_options() {
    QualityOptions o;
    o.memories = parse_memory_specs({"h2o", "window", "h2o"}, nullptr);
    o.one_shot = {{.kind = Budget::Kind::kEvicted, .count = 0, .share = 0.5}};
    o.streaming = {{.kind = Budget::Kind::kEntries, .count = 256, .share = 0}};
    return o;
}

TEST(QualityConditions, FullAndWindowAlwaysStandThereAndNothingTwice) {
    const std::vector<QualityCondition> all = quality_conditions(some_options());
    ASSERT_EQ(all.size(), 5);
    EXPECT_EQ(all[0].eviction.policy, "full");
    EXPECT_EQ(all[1].eviction.policy, "window");
    EXPECT_TRUE(all[1].eviction.one_shot);
    EXPECT_EQ(all[2].eviction.policy, "window");
    EXPECT_FALSE(all[2].eviction.one_shot);
    EXPECT_EQ(all[3].eviction.policy, "h2o");
    EXPECT_EQ(all[4].eviction.policy, "h2o");
}

TEST(QualityConditions, BothKindsOfQuestionDoubleAllButTheFullCache) {
    QualityOptions o = some_options();
    o.aware = true;
    const std::vector<QualityCondition> all = quality_conditions(o);
    EXPECT_EQ(all.size(), 9);
    EXPECT_EQ(std::ranges::count_if(all, &QualityCondition::is_question_known), 4);
}

// ---- what a choice comes to ---------------------------------------------------------------------

MemoryShape small_shape() {
    return {.n_layer = 1, .n_head = 2, .n_head_kv = 1, .d_head = 8, .windows = {}, .n_embd = 16};
}

/// Weights that say which model they are for.
std::shared_ptr<const EvictionWeights> weights_of_this_model() {
    static const Backend kBackend(1);
    testing::GgufBuilder f = testing::small_sidecar(small_shape());
    f.set_text("evict.base_fingerprint", "this one");
    const testing::TemporaryFile file(f.bytes());
    return std::make_shared<const EvictionWeights>(
        file.path(), kBackend, small_shape(),
        BaseModel{.architecture = "", .fingerprint = "this one"});
}

TEST(ChooseEviction, TheUsualPolicyWhereNothingWasTrained) {
    const ChosenEviction chosen = choose_eviction({.budget = "64"}, nullptr);
    EXPECT_EQ(chosen.note, "");
    EXPECT_EQ(chosen.eviction.policy, "question");
    EXPECT_EQ(chosen.eviction.residue, "none");
}

TEST(ChooseEviction, WhatIsKeptWithoutAQuestionIsTheBestThereIs) {
    EXPECT_EQ(best_unasked(nullptr), "leverage");
    EXPECT_EQ(find_policy("question").usual_allocator(nullptr), "uniform");
    const auto learned = weights_of_this_model();
    EXPECT_EQ(best_unasked(learned.get()), "gate");
    EXPECT_EQ(find_policy("question").usual_allocator(learned.get()), "global");
    const auto some = testing::small_weights(small_shape());
    EXPECT_EQ(best_unasked(some.get()), "leverage");
    EXPECT_EQ(find_policy("question").usual_allocator(some.get()), "uniform");
}

TEST(ChooseEviction, TheTrainedGateIsNamedWhereThereAreWeights) {
    const auto learned = weights_of_this_model();
    ASSERT_NE(learned->latent(), nullptr);
    const ChosenEviction chosen = choose_eviction({.budget = "64"}, learned.get());
    EXPECT_EQ(chosen.eviction.policy, "question");
    EXPECT_EQ(chosen.eviction.residue, "none");  // it does not help while a text is read in chunks
    EXPECT_NE(chosen.note.find("'gate'"), std::string::npos) << chosen.note;
}

TEST(ChooseEviction, WeightsOfSomeModelAreNotUsedByThemselves) {
    const auto some = testing::small_weights(small_shape());
    const ChosenEviction chosen = choose_eviction({.budget = "64"}, some.get());
    EXPECT_EQ(chosen.note, "");
    EXPECT_EQ(chosen.eviction.policy, "question");
}

TEST(ChooseEviction, WhatIsNamedIsTaken) {
    const auto learned = weights_of_this_model();
    const auto chosen = [&](const MemoryChoice& c) {
        return choose_eviction(c, learned.get()).eviction;
    };
    EXPECT_EQ(chosen({.budget = "64", .residue = "latent"}).residue, "latent");
    EXPECT_EQ(chosen({.budget = "64", .residue = "latent"}).policy, "question");
    EXPECT_EQ(chosen({.budget = "64", .policy = "window"}).policy, "window");
    EXPECT_EQ(chosen({.budget = "64", .policy = "window"}).residue, "none");
    EXPECT_EQ(chosen({.budget = "64", .policy = "window", .residue = "centroids"}).residue,
              "centroids");
}

TEST(ChooseEviction, OneWordAndOneByOneAreTheSame) {
    const EvictionOptions word =
        choose_eviction({.budget = "64", .policy = "snap-kv/adaptive+merge:window=32"}, nullptr)
            .eviction;
    const EvictionOptions parts = choose_eviction({.budget = "64",
                                                   .policy = "snap-kv",
                                                   .allocator = "adaptive",
                                                   .residue = "merge",
                                                   .settings = {"window=32"}},
                                                  nullptr)
                                      .eviction;
    EXPECT_EQ(word.policy, parts.policy);
    EXPECT_EQ(word.allocator, parts.allocator);
    EXPECT_EQ(word.residue, parts.residue);
    EXPECT_EQ(word.settings, parts.settings);
    // What is said apart goes before what the word says.
    EXPECT_EQ(choose_eviction({.budget = "64", .policy = "h2o+merge", .residue = "none"}, nullptr)
                  .eviction.residue,
              "none");
}

TEST(ChooseEviction, NothingWithoutABudget) {
    EXPECT_EQ(choose_eviction({}, nullptr).eviction.policy, "full");
    EXPECT_EQ(choose_eviction({.residue = "none"}, nullptr).eviction.policy, "full");
    EXPECT_THROW(choose_eviction({.residue = "latent"}, nullptr), Error);
    EXPECT_THROW(choose_eviction({.policy = "full+latent"}, nullptr), Error);
    EXPECT_THROW(choose_eviction({.policy = "h2o"}, nullptr), Error);
    EXPECT_THROW(choose_eviction({.budget = "64", .policy = "full"}, nullptr), Error);
    EXPECT_THROW(choose_eviction({.budget = "64", .policy = "h2o", .evicted = 0.5}, nullptr),
                 Error);
}

}  // namespace
}  // namespace palimpsest
