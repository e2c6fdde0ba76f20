// Sessions over models built in code.

#include "engine/session.h"

#include <gtest/gtest.h>

#include <string>

#include "core/error.h"
#include "support/golden.h"
#include "support/tiny_model.h"

namespace palimpsest {
namespace {

using testing::all_logits;
using testing::max_difference;
using testing::tiny_tokens;
using testing::TinyModel;
using testing::TinyModelOptions;
using testing::write_greedily;

// Steps of other lengths sum products in another order; logits are about 1.
constexpr double kOrder = 2e-5;

std::vector<float> copy(std::span<const float> values) { return {values.begin(), values.end()}; }

/// The error that `act` throws; a failure of the test if it throws none.
template <typename Act>
Error error_of(const Act& act) {
    try {
        act();
    } catch (const Error& e) {
        return e;
    }
    ADD_FAILURE() << "nothing was thrown";
    return {ErrorCode::kInternal, ""};
}

class SessionTest : public ::testing::Test {
 protected:
    /// Feeding the rest must give what a session gives that read everything at once.
    void expect_goes_on(Session& session, const std::vector<TokenId>& tokens) {
        const auto at = tokens.begin() + session.position();
        session.feed(std::vector<TokenId>(at, tokens.end()));
        Session other = tiny.session();
        other.feed(tokens);
        EXPECT_LE(max_difference(session.logits(), other.logits()), kOrder);
    }

    TinyModel tiny;
};

TEST_F(SessionTest, TooLongAPromptIsExhausted) {
    Session session = tiny.session();
    const Error e = error_of([&] { session.feed(tiny_tokens(300)); });
    EXPECT_EQ(e.code(), ErrorCode::kExhausted);
}

TEST_F(SessionTest, TooLongAPromptIsToldBothNumbers) {
    Session session = tiny.session();
    const std::string what = error_of([&] { session.feed(tiny_tokens(300)); }).what();
    EXPECT_NE(what.find("300"), std::string::npos) << what;
    EXPECT_NE(what.find("256"), std::string::npos) << what;
}

TEST_F(SessionTest, TooLongAPromptIsNotReadInPart) {
    Session session = tiny.session(64);
    error_of([&] { session.feed(tiny_tokens(300)); });
    EXPECT_EQ(session.position(), 0);
    EXPECT_EQ(session.memory().usage().positions_seen, 0);
}

TEST_F(SessionTest, GoesOnAfterTooLongAPrompt) {
    Session session = tiny.session();
    session.feed(tiny_tokens(30));
    error_of([&] { session.feed(tiny_tokens(300)); });
    expect_goes_on(session, tiny_tokens(60));
}

TEST_F(SessionTest, TakesAPromptThatFitsExactly) {
    Session session = tiny.session(100);
    session.feed(tiny_tokens(256));
    EXPECT_EQ(session.position(), 256);
}

TEST_F(SessionTest, AFullContextIsExhausted) {
    Session session = tiny.session();
    session.feed(tiny_tokens(256));
    EXPECT_EQ(error_of([&] { session.accept(1); }).code(), ErrorCode::kExhausted);
}

TEST_F(SessionTest, AnEmptyPromptIsRefused) {
    Session session = tiny.session();
    EXPECT_EQ(error_of([&] { session.feed(std::vector<TokenId>()); }).code(),
              ErrorCode::kInvalidArgument);
    EXPECT_EQ(error_of([&] { session.feed(std::vector<Segment>()); }).code(),
              ErrorCode::kInvalidArgument);
    EXPECT_EQ(error_of([&] { session.feed(std::vector<Segment>(3)); }).code(),
              ErrorCode::kInvalidArgument);
}

TEST_F(SessionTest, ATokenOutsideTheVocabularyIsRefused) {
    Session session = tiny.session();
    for (const TokenId token : {-1, 40, 1 << 30}) {
        const Error e = error_of([&] { session.feed(std::vector<TokenId>{1, token}); });
        EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument) << token;
    }
}

TEST_F(SessionTest, GoesOnAfterATokenOutsideTheVocabulary) {
    Session session = tiny.session();
    session.feed(tiny_tokens(30));
    error_of([&] { session.accept(40); });
    expect_goes_on(session, tiny_tokens(60));
}

TEST_F(SessionTest, RowsThatAreNotWholeAreRefused) {
    Session session = tiny.session();
    std::vector<Segment> prompt(1);
    prompt[0].rows.resize(testing::kTinyWidth + 1);
    EXPECT_EQ(error_of([&] { session.feed(prompt); }).code(), ErrorCode::kInvalidArgument);
}

TEST_F(SessionTest, ReportsProgressAfterEveryChunk) {
    Session session = tiny.session(20);
    std::vector<std::pair<int64_t, int64_t>> seen;
    session.feed(tiny_tokens(50), {.on_progress =
                                       [&](int64_t done, int64_t total) {
                                           seen.emplace_back(done, total);
                                           return true;
                                       },
                                   .on_logits = {}});
    EXPECT_EQ(seen, (std::vector<std::pair<int64_t, int64_t>>{{20, 50}, {40, 50}, {50, 50}}));
}

TEST_F(SessionTest, StopsWhereAHookSaysSo) {
    Session session = tiny.session(20);
    const bool whole = session.feed(
        tiny_tokens(50),
        {.on_progress = [](int64_t done, int64_t) { return done < 40; }, .on_logits = {}});
    EXPECT_FALSE(whole);
    EXPECT_EQ(session.position(), 40);
}

TEST_F(SessionTest, GoesOnAfterAHookStoppedIt) {
    Session session = tiny.session(20);
    session.feed(tiny_tokens(50),
                 {.on_progress = [](int64_t, int64_t) { return false; }, .on_logits = {}});
    expect_goes_on(session, tiny_tokens(60));
}

TEST_F(SessionTest, LogitsOfAllPositionsEqualSingleSteps) {
    const std::vector<TokenId> tokens = tiny_tokens(150);
    Session session = tiny.session();
    const std::vector<float> all = all_logits(session, tokens);
    Session single = tiny.session();
    std::vector<float> expected;
    for (const TokenId token : tokens) {
        single.accept(token);
        expected.insert(expected.end(), single.logits().begin(), single.logits().end());
    }
    EXPECT_LE(max_difference(all, expected), kOrder);
}

TEST_F(SessionTest, LogitsAfterAPromptAreThoseOfItsLastPosition) {
    const std::vector<TokenId> tokens = tiny_tokens(150);
    Session session = tiny.session();
    const std::vector<float> all = all_logits(session, tokens);
    Session other = tiny.session();
    other.feed(tokens);
    EXPECT_LE(max_difference(other.logits(), std::span(all).last(testing::kTinyVocab)), kOrder);
}

TEST_F(SessionTest, SegmentsAreReadAsOneText) {
    const std::vector<TokenId> tokens = tiny_tokens(60);
    std::vector<Segment> prompt(3);
    prompt[0].tokens.assign(tokens.begin(), tokens.begin() + 7);
    prompt[2].tokens.assign(tokens.begin() + 7, tokens.end());
    prompt[2].is_context = true;
    Session session = tiny.session(25);
    session.feed(prompt);
    Session other = tiny.session(25);
    other.feed(tokens);
    EXPECT_EQ(max_difference(session.logits(), other.logits()), 0);
}

TEST_F(SessionTest, ResetEqualsNew) {
    Session session = tiny.session();
    session.feed(tiny_tokens(99, 7));
    session.reset();
    session.feed(tiny_tokens(60));
    Session other = tiny.session();
    other.feed(tiny_tokens(60));
    EXPECT_EQ(max_difference(session.logits(), other.logits()), 0);
}

TEST_F(SessionTest, TakingTurnsOnOneBackendEqualsBeingAlone) {
    std::vector<std::vector<TokenId>> alone;
    for (const uint32_t seed : {1U, 2U}) {
        Session session = tiny.session();
        session.feed(tiny_tokens(30 + seed, seed));
        alone.push_back(write_greedily(session, 40));
    }
    Session a = tiny.session();
    Session b = tiny.session();
    a.feed(tiny_tokens(31, 1));
    b.feed(tiny_tokens(32, 2));
    std::vector<std::vector<TokenId>> together(2);
    for (int i = 0; i < 20; ++i) {
        // Two steps each: the second of a session reuses its graph, the first may not.
        for (const TokenId t : write_greedily(a, 2)) together[0].push_back(t);
        for (const TokenId t : write_greedily(b, 2)) together[1].push_back(t);
    }
    EXPECT_EQ(together, alone);
}

TEST_F(SessionTest, LogitsSurviveAnotherSessionsTurn) {
    Session a = tiny.session();
    a.feed(tiny_tokens(31, 1));
    const std::vector<float> before = copy(a.logits());
    Session b = tiny.session();
    b.feed(tiny_tokens(60, 2));
    EXPECT_EQ(max_difference(a.logits(), before), 0);
}

TEST_F(SessionTest, RoomShrinksAsPositionsAreRead) {
    Session session = tiny.session();
    EXPECT_EQ(session.room(), 256);
    session.feed(tiny_tokens(31));
    EXPECT_EQ(session.room(), 225);
}

TEST_F(SessionTest, ImpossibleOptionsAreRefused) {
    EXPECT_EQ(error_of([&] {
                  const Session session(tiny.model(), tiny.backend(), tiny.memory(),
                                        {.n_chunk = 0});
              }).code(),
              ErrorCode::kInvalidArgument);
}

/// Families, and chunks that cut them.
struct ModelCase {
    const char* name;
    TinyModelOptions options;
};

class SessionOfEveryModel : public ::testing::TestWithParam<ModelCase> {
 protected:
    /// Gemma's GELU goes through ggml's half-precision table: a last bit becomes 2^-11.
    static double order() { return GetParam().options.architecture == "gemma3" ? 4e-3 : kOrder; }
};

TEST_P(SessionOfEveryModel, DoesNotDependOnTheChunk) {
    TinyModel m(GetParam().options);
    Session whole = m.session();
    const std::vector<float> expected = all_logits(whole, tiny_tokens(130));
    for (const int64_t chunk : {1, 7, 8, 33}) {
        Session session = m.session(chunk);
        EXPECT_LE(max_difference(all_logits(session, tiny_tokens(130)), expected), order())
            << chunk;
    }
}

TEST_P(SessionOfEveryModel, FusedAttentionEqualsTheReferencePath) {
    TinyModel m(GetParam().options);
    Session fused = m.session();
    Session reference = m.session(m.memory(GGML_TYPE_F32, AttentionPath::kReference));
    EXPECT_LE(max_difference(all_logits(fused, tiny_tokens(130)),
                             all_logits(reference, tiny_tokens(130))),
              order());
}

TEST_P(SessionOfEveryModel, DoesNotDependOnTheNumberOfThreads) {
    TinyModel one(GetParam().options, 1);
    Session session = one.session();
    const std::vector<float> expected = all_logits(session, tiny_tokens(70));
    for (const int n_threads : {2, 3, 4}) {
        TinyModel m(GetParam().options, n_threads);
        Session other = m.session();
        EXPECT_EQ(max_difference(all_logits(other, tiny_tokens(70)), expected), 0) << n_threads;
    }
}

INSTANTIATE_TEST_SUITE_P(
    Models, SessionOfEveryModel,
    ::testing::Values(ModelCase{"llama", {}}, ModelCase{"llama_8_channels", {.d_head = 8}},
                      ModelCase{"llama_no_sharing", {.n_head_kv = 4}},
                      ModelCase{"llama_16_queries_share", {.n_head = 16, .n_head_kv = 1}},
                      ModelCase{"gemma3", {.architecture = "gemma3", .n_layer = 4}},
                      ModelCase{"gemma3_window_of_one",
                                {.architecture = "gemma3", .window = 1, .window_period = 9}}),
    [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace palimpsest
