#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "core/error.h"
#include "engine/runtime.h"
#include "model/load.h"
#include "palimpsest/engine.h"
#include "support/golden.h"
#include "support/tiny_model.h"

// Options that are not named keep their defaults.
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

namespace palimpsest {
namespace {

constexpr int64_t kVocab = 50;

/// Logits that leave the draw something to choose from.
std::vector<float> logits(uint32_t seed = 1) {
    std::mt19937 engine(seed);
    std::vector<float> values(kVocab);
    for (float& x : values) x = static_cast<float>(engine() % 1000) / 250.0F;
    return values;
}

/// Zero but for these.
std::vector<float> peaks(const std::vector<std::pair<size_t, float>>& at) {
    std::vector<float> values(kVocab);
    for (const auto& [i, x] : at) values[i] = x;
    return values;
}

std::vector<TokenId> picks(const SamplingOptions& options, const std::vector<float>& from, int n) {
    Sampler sampler(options, kVocab, nullptr);
    std::vector<TokenId> picked;
    picked.reserve(static_cast<size_t>(n));
    for (int i = 0; i < n; ++i) picked.push_back(sampler.pick(from));
    return picked;
}

ErrorCode code_of(const SamplingOptions& options, const llama_vocab* vocab = nullptr) {
    try {
        const Sampler sampler(options, kVocab, vocab);
    } catch (const Error& e) {
        return e.code();
    }
    return ErrorCode::kInternal;
}

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

struct BadOption {
    const char* name;
    SamplingOptions options;
};

class SamplerRefuses : public ::testing::TestWithParam<BadOption> {};

TEST_P(SamplerRefuses, AnOptionOutsideItsRange) {
    EXPECT_EQ(code_of(GetParam().options), ErrorCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(
    Options, SamplerRefuses,
    ::testing::Values(BadOption{"temperature_below_0", {.temperature = -0.1F}},
                      BadOption{"temperature_infinite", {.temperature = kInf}},
                      BadOption{"temperature_nan", {.temperature = kNan}},
                      BadOption{"top_k_below_0", {.top_k = -1}}, BadOption{"top_p_0", {.top_p = 0}},
                      BadOption{"top_p_above_1", {.top_p = 1.01F}},
                      BadOption{"top_p_nan", {.top_p = kNan}},
                      BadOption{"min_p_below_0", {.min_p = -0.01F}},
                      BadOption{"min_p_1", {.min_p = 1}}, BadOption{"min_p_nan", {.min_p = kNan}},
                      BadOption{"repeat_penalty_0", {.repeat_penalty = 0}},
                      BadOption{"repeat_penalty_below_0", {.repeat_penalty = -1}},
                      BadOption{"frequency_penalty_infinite", {.frequency_penalty = -kInf}},
                      BadOption{"presence_penalty_nan", {.presence_penalty = kNan}},
                      BadOption{"penalty_last_n_below_0", {.penalty_last_n = -1}},
                      BadOption{"grammar_without_vocabulary",
                                {.grammar = "root ::= \"yes\" | \"no\""}}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(Sampler, TemperatureZeroPicksTheLikeliest) {
    EXPECT_EQ(picks({}, peaks({{7, 1.0F}, {30, 1.5F}}), 2), (std::vector<TokenId>{30, 30}));
}

TEST(Sampler, OfEquallyLikelyTokensTheFirstIsPicked) {
    EXPECT_EQ(picks({}, peaks({{7, 1.0F}, {30, 1.0F}}), 1), std::vector<TokenId>{7});
}

TEST(Sampler, TheSameSeedPicksTheSame) {
    for (const uint32_t seed : {0U, 1U, 12345U}) {
        const SamplingOptions options = {.temperature = 1.0F, .seed = seed};
        EXPECT_EQ(picks(options, logits(), 50), picks(options, logits(), 50)) << seed;
    }
}

// libllama means "random" by its default seed, the largest one.
TEST(Sampler, TheLargestSeedPicksTheSameToo) {
    const SamplingOptions options = {.temperature = 1.0F,
                                     .seed = std::numeric_limits<uint32_t>::max()};
    EXPECT_EQ(picks(options, logits(), 50), picks(options, logits(), 50));
}

TEST(Sampler, AnotherSeedPicksOthers) {
    EXPECT_NE(picks({.temperature = 1.0F, .seed = 1}, logits(), 50),
              picks({.temperature = 1.0F, .seed = 2}, logits(), 50));
}

/// Limits so tight that only the likeliest token is left, at a temperature that would mix all.
class SamplerLimits : public ::testing::TestWithParam<SamplingOptions> {};

TEST_P(SamplerLimits, LeaveTheLikeliestToken) {
    EXPECT_EQ(picks(GetParam(), logits(), 30), picks({}, logits(), 30));
}

INSTANTIATE_TEST_SUITE_P(
    Tight, SamplerLimits,
    ::testing::Values(SamplingOptions{.temperature = 5, .top_k = 1, .top_p = 1, .min_p = 0},
                      SamplingOptions{.temperature = 5, .top_k = 0, .top_p = 1e-6F, .min_p = 0},
                      SamplingOptions{.temperature = 5, .top_k = 0, .top_p = 1, .min_p = 0.9999F}));

TEST(Sampler, TopKBeyondTheVocabularyLimitsNothing) {
    const SamplingOptions all = {.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0, .seed = 3};
    SamplingOptions many = all;
    many.top_k = 1000000;
    EXPECT_EQ(picks(many, logits(), 1).size(), picks(all, logits(), 1).size());
}

TEST(Sampler, RepeatPenaltyLowersWhatWasPicked) {
    EXPECT_EQ(picks({.repeat_penalty = 2}, peaks({{3, 2.0F}, {5, 1.5F}}), 2),
              (std::vector<TokenId>{3, 5}));
}

TEST(Sampler, PresencePenaltyLowersWhatWasPicked) {
    EXPECT_EQ(picks({.presence_penalty = 1}, peaks({{3, 2.0F}, {5, 1.5F}}), 2),
              (std::vector<TokenId>{3, 5}));
}

TEST(Sampler, FrequencyPenaltyGrowsWithEveryPick) {
    // 2.0, then 1.7, then 1.4 against 1.5.
    EXPECT_EQ(picks({.frequency_penalty = 0.3F}, peaks({{3, 2.0F}, {5, 1.5F}}), 3),
              (std::vector<TokenId>{3, 3, 5}));
}

TEST(Sampler, PenaltiesForgetWhatLiesFarBack) {
    EXPECT_EQ(picks({.repeat_penalty = 2, .penalty_last_n = 1}, peaks({{3, 2.0F}, {5, 1.5F}}), 3),
              (std::vector<TokenId>{3, 5, 3}));
}

TEST(Sampler, PenaltiesOverNoTokensChangeNothing) {
    EXPECT_EQ(picks({.repeat_penalty = 2, .penalty_last_n = 0}, peaks({{3, 2.0F}, {5, 1.5F}}), 2),
              (std::vector<TokenId>{3, 3}));
}

TEST(SamplerReal, AGrammarThatIsNotGbnfIsRefused) {
    REQUIRE_MODEL();
    const Backend backend(1);
    const LoadedModel model(*model_path, backend);
    const llama_vocab* vocab = model.require_tokenizer().vocab();
    for (const char* grammar : {"root ::= (", "root", "root := \"x\"", "other ::= \"x\"",
                                "root ::= missing", "root ::= root \"x\"", "\xff"}) {
        EXPECT_EQ(code_of({.grammar = grammar}, vocab), ErrorCode::kInvalidArgument) << grammar;
    }
}

TEST(SamplerBias, MovesWhatIsPicked) {
    const std::vector<float> from = peaks({{3, 2.0F}, {7, 1.0F}});
    EXPECT_EQ(picks({.temperature = 0}, from, 1).front(), 3);
    EXPECT_EQ(picks({.temperature = 0, .bias = {{3, -5.0F}}}, from, 1).front(), 7);
    EXPECT_EQ(picks({.temperature = 0, .bias = {{9, 50.0F}}}, from, 1).front(), 9);
    EXPECT_EQ(code_of({.bias = {{1, kNan}}}), ErrorCode::kInvalidArgument);
}

/// Whatever it is told by, a grammar that waits holds from its trigger on, and not before.
TEST(SamplerTriggers, AGrammarHoldsFromItsTriggerOn) {
    const testing::TemporaryFile file(testing::speaking_model_bytes(), ".gguf");
    const Engine engine({.model = file.path(), .threads = 1});
    const Tokenizer& t = engine.runtime().loaded().require_tokenizer();
    const auto token = [&](const char* text) {
        const std::vector<TokenId> ids = t.encode(text);
        EXPECT_EQ(ids.size(), 1U) << text;
        return static_cast<size_t>(ids.front());
    };
    const auto pick = [&](Sampler& s, std::vector<const char*> wanted) {
        std::vector<float> logits(static_cast<size_t>(t.n_vocab()), 0.0F);
        float likely = 10;
        for (const char* text : wanted) logits[token(text)] = likely--;
        return t.decode(std::vector<TokenId>{s.pick(logits)});
    };
    using enum GrammarTrigger::Kind;
    for (const GrammarTrigger& trigger :
         {GrammarTrigger{kWord, "(("}, GrammarTrigger{kPattern, "\\(\\("}}) {
        Sampler sampler(
            {.temperature = 0, .grammar = "root ::= \"((\" [0-9] \")\"", .triggers = {trigger}},
            t.n_vocab(), t.vocab());
        for (int i = 0; i < 30; ++i) EXPECT_EQ(pick(sampler, {"a", "1"}), "a");
        EXPECT_EQ(pick(sampler, {"(", "1"}), "(");
        EXPECT_EQ(pick(sampler, {"a", "1"}), "a");
        EXPECT_EQ(pick(sampler, {"(", "1"}), "(");
        EXPECT_EQ(pick(sampler, {"(", "1"}), "(");
        EXPECT_EQ(pick(sampler, {"a", "1"}), "1") << trigger.value;
        EXPECT_EQ(pick(sampler, {"a", "1", ")"}), ")") << trigger.value;
    }
}

}  // namespace
}  // namespace palimpsest
