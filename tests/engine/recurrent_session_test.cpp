// Sessions over recurrent and hybrid models, and others with parts of theirs: however tokens come,
// saved and restored, beside others, rehearsed.

#include <gtest/gtest.h>

#include <sstream>

#include "core/error.h"
#include "engine/batch.h"
#include "memory/cache/hybrid_memory.h"
#include "memory/recurrent/recurrent_memory.h"
#include "palimpsest/conversation.h"
#include "support/tiny_build.h"
#include "support/tiny_model.h"

namespace palimpsest {
namespace {

using testing::all_logits;
using testing::max_difference;
using testing::tiny_tokens;
using testing::TinyModel;

/// A model, and what its recurrent layers keep instead of one state a head; empty: nothing else.
struct Kept {
    const char* architecture;
    const char* bank;
};

class RecurrentSession : public ::testing::TestWithParam<Kept> {
 protected:
    RecurrentSession()
        : model_({.architecture = GetParam().architecture,
                  .n_layer = 4,
                  .reading = Reading::kQuantised}) {}

    [[nodiscard]] std::unique_ptr<ContextMemory> memory() {
        const MemoryShape shape = model_.shape();
        MemoryInputs in = {.backend = model_.backend(), .shape = shape};
        in.cache = {.n_ctx = 256, .entries = GGML_TYPE_F32};
        const std::string bank = GetParam().bank;
        if (!bank.empty()) in.settings = {{"bank", bank}, {"states", "5"}, {"threshold", "1.2"}};
        const auto kinds = memory_kinds();
        const auto kind =
            std::ranges::find_if(kinds, [&](const auto& k) { return k.suits(shape); });
        return make_memory(kind->name, in);
    }
    [[nodiscard]] Session session(int64_t n_chunk = 512) {
        return model_.session(memory(), n_chunk);
    }

    TinyModel model_;
};

TEST_P(RecurrentSession, WithReadOutWeightsOfOneABankIsTheModelItself) {
    const std::vector<TokenId> tokens = tiny_tokens(90);
    Session plain = model_.session();
    Session talk = session();
    EXPECT_LT(max_difference(all_logits(talk, tokens), all_logits(plain, tokens)), 1e-4);
}

TEST_P(RecurrentSession, ChunksGiveTheSameAsOnePass) {
    const std::vector<TokenId> tokens = tiny_tokens(90);
    Session whole = session();
    const std::vector<float> expected = all_logits(whole, tokens);
    for (const int64_t chunk : {1, 2, 3, 31}) {
        Session talk = session(chunk);
        EXPECT_LT(max_difference(all_logits(talk, tokens), expected), 1e-4) << chunk;
    }
}

TEST_P(RecurrentSession, GoesOnAfterSavingWhereItWas) {
    Session talk = session();
    talk.feed(tiny_tokens(40), {});
    std::stringstream saved;
    talk.sequence().save(saved);
    talk.accept(3);
    const std::vector<TokenId> expected = testing::write_greedily(talk, 20);
    Session other = session();
    other.feed(tiny_tokens(10, 9), {});
    other.sequence().load(saved);
    other.accept(3);
    EXPECT_EQ(testing::write_greedily(other, 20), expected);
}

TEST_P(RecurrentSession, DamagedSavedStatesAreRefusedAndLeaveItAsNew) {
    if (recurrent_part(model_.shape()).n_layer == 0) GTEST_SKIP() << "there are none";
    Session talk = session();
    talk.feed(tiny_tokens(40), {});
    std::stringstream saved;
    talk.memory().save(saved);
    const std::string whole = saved.str();
    Session fresh = session();
    const std::vector<float> expected = all_logits(fresh, tiny_tokens(5));
    const auto refused = [&](const std::string& bytes) {
        Session other = session();
        std::stringstream in(bytes);
        auto made = memory();
        EXPECT_THROW(made->load(in), Error);
        EXPECT_EQ(made->usage().positions_seen, 0);
        Session after = model_.session(std::move(made));
        EXPECT_EQ(max_difference(all_logits(after, tiny_tokens(5)), expected), 0);
    };
    refused("");
    refused(whole.substr(0, whole.size() / 2));
    refused(whole.substr(0, whole.size() - 1));
    // Whatever numbers lie there, one of them is none now.
    std::string not_a_number = whole;
    not_a_number.replace(not_a_number.size() - 64, 16, 16, '\xFF');
    refused(not_a_number);
}

TEST_P(RecurrentSession, OthersBesideItChangeNothing) {
    Session alone = session();
    alone.feed(tiny_tokens(30), {});
    const std::vector<float> expected(alone.logits().begin(), alone.logits().end());
    Session a = session();
    Session b = session();
    Session c = session();
    a.sequence().feed({{.tokens = tiny_tokens(30)}}, {});
    b.sequence().feed({{.tokens = tiny_tokens(17, 2)}}, {});
    c.sequence().feed({{.tokens = tiny_tokens(1, 3)}}, {});
    std::vector<Sequence*> all = {&b.sequence(), &a.sequence(), &c.sequence()};
    Batch batch(model_.model(), model_.backend());
    batch.run(all);
    EXPECT_LT(max_difference(a.logits(), expected), 1e-5);
}

TEST_P(RecurrentSession, ResetForgetsEverything) {
    Session fresh = session();
    const std::vector<float> expected = all_logits(fresh, tiny_tokens(20));
    Session talk = session();
    talk.feed(tiny_tokens(33, 4), {});
    talk.reset();
    EXPECT_EQ(max_difference(all_logits(talk, tiny_tokens(20)), expected), 0);
}

TEST_P(RecurrentSession, NothingOfARehearsalStays) {
    const auto step = [&](ContextMemory& memory, const std::vector<TokenId>& tokens, Step s) {
        s.n = std::ssize(tokens);
        s.first_pos = memory.next_position();
        Evaluator evaluator(model_.model(), model_.backend());
        const Lane lane = {.memory = &memory, .step = s, .runs = {{.tokens = tokens}}};
        const auto result = evaluator.step(std::span(&lane, 1)).front();
        EXPECT_FALSE(result.failure);
        return std::vector<float>(result.logits.begin(), result.logits.end());
    };
    // States alone: what attends has rehearsals of its own, and tests of them.
    const MemoryShape shape = model_.shape();
    if (!attending_layer(shape).empty()) GTEST_SKIP() << "a layer attends";
    const auto plain = memory();
    const auto rehearsed = memory();
    for (ContextMemory* m : {plain.get(), rehearsed.get()}) step(*m, tiny_tokens(20), {});
    step(*rehearsed, tiny_tokens(7, 5), {.kind = StepKind::kRehearsal, .rehearsal = {0, 7}});
    step(*rehearsed, tiny_tokens(4, 6),
         {.kind = StepKind::kRehearsal, .rehearsal = {7, 11, true, true}});
    EXPECT_EQ(max_difference(step(*rehearsed, tiny_tokens(3, 7), {}),
                             step(*plain, tiny_tokens(3, 7), {})),
              0);
    // One that is given up in the middle leaves nothing either.
    step(*rehearsed, tiny_tokens(7, 5), {.kind = StepKind::kRehearsal, .rehearsal = {0, 7}});
    EXPECT_EQ(max_difference(step(*rehearsed, tiny_tokens(3, 8), {}),
                             step(*plain, tiny_tokens(3, 8), {})),
              0);
}

TEST_P(RecurrentSession, ReportsStates) {
    Session talk = session();
    talk.feed(tiny_tokens(20), {});
    const MemoryReport r = talk.memory().report();
    EXPECT_EQ(r.positions_seen, 20);
    EXPECT_EQ(std::ssize(r.layers), 4);
    const MemoryShape shape = model_.shape();
    const bool has_states = attention_part(shape).n_layer < shape.n_layer;
    EXPECT_EQ(r.bytes.states > 0, has_states);
    const size_t before = r.bytes.states;
    talk.feed(tiny_tokens(60), {});
    EXPECT_EQ(talk.memory().report().bytes.states, before);
}

TEST(HybridConversation, HoldsABudgetWhereItAttends) {
    const testing::TemporaryFile file(
        testing::speaking_model_bytes({.architecture = "qwen35", .n_layer = 4, .n_ctx = 1024}),
        ".gguf");
    const Engine engine({.model = file.path(), .threads = 1, .chunk = 128});
    std::string text;
    for (int i = 0; i < 60; ++i) text += cat("hello ", i, ". ");
    for (const char* policy : {"window", "leverage", "kvzip", "tova", "question"}) {
        SCOPED_TRACE(policy);
        Conversation talk(engine, {.memory = {.budget = "64", .policy = policy}});
        const std::vector<TextPart> parts = {{text, true}, {"hello?"}};
        EXPECT_EQ(talk.ask(parts, {.max_tokens = 4}).run().n_generated, 4);
        const MemoryReport r = talk.report();
        ASSERT_EQ(r.layers.size(), 4U);
        for (size_t i = 0; i < r.layers.size(); ++i) {
            const bool attends = i % 2 == 1;
            EXPECT_EQ(r.layers[i].held.empty(), !attends);
            for (const int64_t held : r.layers[i].held) EXPECT_LE(held, 64 + 128);
            EXPECT_GT(r.layers[i].bytes, 0U);
        }
        EXPECT_GT(r.bytes.states, 0U);
        EXPECT_GT(r.positions_seen, 200);
    }
}

TEST(HybridConversation, ABudgetInBytesIsForStatesToo) {
    const testing::TemporaryFile file(
        testing::speaking_model_bytes({.architecture = "qwen35", .n_layer = 4, .n_ctx = 4096}),
        ".gguf");
    const Engine engine({.model = file.path(), .threads = 1, .chunk = 128});
    std::string text;
    for (int i = 0; i < 300; ++i) text += cat("hello ", i, ". ");
    const std::vector<TextPart> parts = {{text, true}, {"hello?"}};
    for (const char* policy : {"window", "kvzip", "question"}) {
        SCOPED_TRACE(policy);
        const MemoryChoice choice = {
            .budget = "600KiB", .policy = policy, .bank = "ward", .bank_settings = {"states=8"}};
        Conversation talk(engine, {.memory = choice});
        EXPECT_GE(talk.ask(parts, {.max_tokens = 2}).run().n_generated, 1);
        const MemoryReport r = talk.report();
        EXPECT_GT(r.n_cuts, 0);
        EXPECT_GT(r.bytes.states, 50000U);
        EXPECT_LE(r.peak_bytes, 600U << 10U);
    }
    const auto too_small = [&] {
        Conversation talk(engine, {.memory = {.budget = "40KiB",
                                              .policy = "window",
                                              .bank = "ward",
                                              .bank_settings = {"states=8"}}});
    };
    EXPECT_EQ(testing::code_of(too_small), ErrorCode::kInvalidArgument);
}

TEST(HybridConversation, RefusesABudgetWhereNoLayerAttends) {
    const testing::TemporaryFile file(testing::speaking_model_bytes({.architecture = "mamba2"}),
                                      ".gguf");
    const Engine engine({.model = file.path(), .threads = 1});
    Conversation plain(engine, {});
    EXPECT_EQ(plain.ask("hello", {.max_tokens = 2}).run().n_generated, 2);
    const auto bounded = [&] { Conversation talk(engine, {.memory = {.budget = "64"}}); };
    EXPECT_EQ(testing::code_of(bounded), ErrorCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(Models, RecurrentSession,
                         ::testing::Values(Kept{"mamba2", ""}, Kept{"qwen35", ""},
                                           Kept{"qwen35moe", ""}, Kept{"qwen3next", ""},
                                           Kept{"granitehybrid", ""}, Kept{"granite", ""},
                                           Kept{"granitemoe", ""}, Kept{"qwen3moe", ""},
                                           Kept{"granitehybrid", "dla"}, Kept{"mamba2", "dla"},
                                           Kept{"qwen35", "dla"}, Kept{"mamba2", "ward"},
                                           Kept{"mamba2", "equal"}, Kept{"mamba2", "random"},
                                           Kept{"mamba2", "log-linear"}),
                         [](const auto& one) {
                             std::string name = cat(one.param.architecture, "_", one.param.bank);
                             std::ranges::replace(name, '-', '_');
                             return name;
                         });

}  // namespace
}  // namespace palimpsest
