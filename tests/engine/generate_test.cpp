// Answers of the default model: how they end, and that they end as asked.

#include "engine/generate.h"

#include <gtest/gtest.h>

#include <string>

#include "core/error.h"
#include "memory/cache/memories.h"
#include "model/load.h"
#include "support/golden.h"

// Options that are not named keep their defaults.
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

namespace palimpsest {
namespace {

/// A short answer that ends before any of `texts`. Not in braces: GCC 12 believes that a string
/// left out of them is read before it is made.
AnswerOptions stopping_at(std::vector<std::string> texts) {
    AnswerOptions options = {.max_tokens = 24};
    options.stop = std::move(texts);
    return options;
}

/// The default model, for the tests of one run.
class GenerateReal : public ::testing::Test {
 protected:
    void SetUp() override {
        REQUIRE_MODEL();
        model = std::make_unique<LoadedModel>(*model_path, backend);
    }

    Session session(int64_t n_ctx = 512) {
        return {model->model(),
                backend,
                make_memory("kv", backend, model->config().memory_shape(), {.n_ctx = n_ctx}),
                {.n_chunk = 16}};
    }

    [[nodiscard]] std::vector<Segment> question() const {
        const std::vector<ChatMessage> messages = {
            {.role = "user", .parts = {{.text = "Name three colours of the rainbow."}}}};
        return model->require_tokenizer().encode_chat(messages);
    }

    GenerateResult answer(const AnswerOptions& options, const GenerateHooks& hooks = {},
                          int64_t n_ctx = 512) {
        Session s = session(n_ctx);
        return generate(s, model->require_tokenizer(), question(), options, hooks);
    }

    Backend backend{1};  // idle threads would spin
    std::unique_ptr<LoadedModel> model;
};

TEST_F(GenerateReal, EndsByItself) {
    Session s = session();
    const std::vector<ChatMessage> messages = {
        {.role = "user", .parts = {{.text = "What is the capital of France? One sentence."}}}};
    const Tokenizer& tokenizer = model->require_tokenizer();
    const GenerateResult r =
        generate(s, tokenizer, tokenizer.encode_chat(messages), {.max_tokens = 100}, {});
    EXPECT_EQ(r.reason, StopReason::kEndToken) << r.text;
    EXPECT_NE(r.text.find("Paris"), std::string::npos) << r.text;
}

TEST_F(GenerateReal, ShowsTheTextItReturns) {
    std::string shown;
    const GenerateResult r = answer({.max_tokens = 20}, {.on_text = [&](std::string_view piece) {
                                        shown += piece;
                                        return true;
                                    }});
    EXPECT_EQ(shown, r.text);
}

TEST_F(GenerateReal, TextIsThatOfTheTokens) {
    const GenerateResult r = answer({.max_tokens = 20});
    EXPECT_EQ(r.text, model->require_tokenizer().decode(r.tokens));
}

TEST_F(GenerateReal, StopsAtTheMostTokens) {
    const GenerateResult r = answer({.max_tokens = 5});
    EXPECT_EQ(r.reason, StopReason::kLength);
    EXPECT_EQ(r.n_generated, 5);
}

TEST_F(GenerateReal, StopsBeforeAStopTextWhereverTokensSplitIt) {
    const std::string whole = answer({.max_tokens = 24}).text;
    ASSERT_GE(whole.size(), 40) << whole;
    for (size_t at = 3; at < 30; ++at) {
        const std::string stop = whole.substr(at, 7);
        const GenerateResult r = answer(stopping_at({stop}));
        EXPECT_EQ(r.reason, StopReason::kStopText) << stop;
        EXPECT_EQ(r.text, whole.substr(0, whole.find(stop))) << stop;
    }
}

TEST_F(GenerateReal, TheFirstOfSeveralStopTextsCounts) {
    const std::string whole = answer({.max_tokens = 24}).text;
    const GenerateResult r = answer(stopping_at({whole.substr(20, 5), whole.substr(10, 5)}));
    EXPECT_EQ(r.text, whole.substr(0, std::min(whole.find(whole.substr(10, 5)),
                                               whole.find(whole.substr(20, 5)))));
}

TEST_F(GenerateReal, ShowsWhatOnlyLookedLikeAStopText) {
    const std::string whole = answer({.max_tokens = 24}).text;
    // Begins as the answer's end does, and is then never completed.
    const GenerateResult r = answer(stopping_at({whole.substr(whole.size() - 4) + "\x01"}));
    EXPECT_EQ(r.text, whole);
}

TEST_F(GenerateReal, NeverShowsAPartOfAStopText) {
    const std::string whole = answer({.max_tokens = 24}).text;
    const std::string stop = whole.substr(9, 12);
    std::string shown;
    answer(stopping_at({stop}), {.on_text = [&](std::string_view piece) {
               shown += piece;
               return true;
           }});
    EXPECT_EQ(shown, whole.substr(0, whole.find(stop)));
}

TEST_F(GenerateReal, StopsWhenTheTextIsNotWanted) {
    int pieces = 0;
    const GenerateResult r =
        answer({.max_tokens = 50}, {.on_text = [&](std::string_view) { return ++pieces < 3; }});
    EXPECT_EQ(r.reason, StopReason::kCancelled);
    EXPECT_EQ(pieces, 3);
}

TEST_F(GenerateReal, StopsWhileReadingWhenAskedTo) {
    const GenerateResult r =
        answer({.max_tokens = 50}, {.on_prefill = [](int64_t, int64_t) { return false; }});
    EXPECT_EQ(r.reason, StopReason::kCancelled);
    EXPECT_EQ(r.n_generated, 0);
}

TEST_F(GenerateReal, AFullContextWhileWritingIsALength) {
    const int64_t n_prompt = answer({.max_tokens = 1}).n_prompt;
    const GenerateResult r = answer({.max_tokens = 100}, {}, n_prompt + 6);
    EXPECT_EQ(r.reason, StopReason::kLength);
    // One more than fits: the last one is not read.
    EXPECT_EQ(r.n_generated, 7);
}

TEST_F(GenerateReal, APromptThatDoesNotFitIsExhausted) {
    try {
        answer({.max_tokens = 10}, {}, 8);
        FAIL() << "it fitted";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kExhausted);
    }
}

TEST_F(GenerateReal, ABadOptionCostsNoReading) {
    Session s = session();
    for (const AnswerOptions& options : {AnswerOptions{.sampling = {.temperature = -1}},
                                         AnswerOptions{.max_tokens = 0}, stopping_at({""})}) {
        EXPECT_THROW(generate(s, model->require_tokenizer(), question(), options, {}), Error);
    }
    EXPECT_EQ(s.position(), 0);
}

TEST_F(GenerateReal, TheSameSeedGivesTheSameText) {
    const AnswerOptions options = {.sampling = {.temperature = 1.0F, .seed = 7}, .max_tokens = 24};
    EXPECT_EQ(answer(options).text, answer(options).text);
}

TEST_F(GenerateReal, AnotherSeedGivesAnotherText) {
    const auto with_seed = [&](uint32_t seed) {
        return answer({.sampling = {.temperature = 1.5F, .seed = seed}, .max_tokens = 24}).text;
    };
    EXPECT_NE(with_seed(1), with_seed(2));
}

TEST_F(GenerateReal, FollowsAGrammar) {
    for (const float temperature : {0.0F, 1.5F}) {
        const GenerateResult r = answer(
            {.sampling = {.temperature = temperature, .grammar = "root ::= \"yes\" | \"no\""},
             .max_tokens = 20});
        EXPECT_TRUE(r.text == "yes" || r.text == "no") << r.text;
        EXPECT_EQ(r.reason, StopReason::kEndToken);
    }
}

TEST_F(GenerateReal, FollowsAGrammarOfNumbers) {
    const GenerateResult r =
        answer({.sampling = {.grammar = "root ::= [1-9] [0-9] \", \" [a-c]+"}, .max_tokens = 12});
    ASSERT_GE(r.text.size(), 5);
    EXPECT_EQ(r.text.substr(2, 2), ", ");
    EXPECT_EQ(r.text.find_first_not_of("abc", 4), std::string::npos) << r.text;
}

TEST(StopReason, HasANameEach) {
    EXPECT_EQ(to_string(StopReason::kEndToken), "end");
    EXPECT_EQ(to_string(StopReason::kStopText), "stop");
    EXPECT_EQ(to_string(StopReason::kLength), "length");
    EXPECT_EQ(to_string(StopReason::kCancelled), "cancelled");
}

}  // namespace
}  // namespace palimpsest
