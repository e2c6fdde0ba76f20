// How far predictions are apart, against numbers worked out by hand.

#include "bench/quality/divergence.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"

namespace palimpsest {
namespace {

constexpr int64_t kVocab = 2;
const double kLog3 = std::log(3.0);

/// Logits that give the first of two tokens this probability.
std::vector<float> of_probability(double p) {
    return {static_cast<float>(std::log(p)) + 5.0F, static_cast<float>(std::log(1 - p)) + 5.0F};
}

TEST(Divergence, IsNoneBetweenEqualPredictions) {
    Predictions full(kVocab);
    const std::vector<TokenId> tokens = {0, 1};
    full.add(of_probability(0.75));
    full.add(of_probability(0.25));
    Divergence d(full, tokens);
    d.add(of_probability(0.75));
    d.add(of_probability(0.25));
    QualityResult r;
    d.write_to(r);
    EXPECT_NEAR(r.score, 0, 1e-6);
    EXPECT_NEAR(r.nll, r.nll_full, 1e-6);
    EXPECT_NEAR(r.nll, std::log(4.0), 1e-5);  // token 1 had a quarter
}

TEST(Divergence, IsWhatItIsByHand) {
    Predictions full(kVocab);
    const std::vector<TokenId> tokens = {1, 0};
    full.add(of_probability(0.75));
    full.add(of_probability(0.5));
    Divergence d(full, tokens);
    d.add(of_probability(0.25));
    d.add(of_probability(0.5));
    QualityResult r;
    d.write_to(r);
    // 3/4 ln 3 + 1/4 ln 1/3 = 1/2 ln 3, and nothing at the second position
    EXPECT_NEAR(r.score, kLog3 / 4, 1e-5);
    EXPECT_NEAR(r.nll, std::log(4.0), 1e-5);
    EXPECT_NEAR(r.nll_full, std::log(4.0) - kLog3, 1e-5);
    ASSERT_EQ(r.kl_by_position.size(), 1);
    EXPECT_EQ(r.kl_by_position[0].end, 2);
}

TEST(Divergence, BinsGrowAndCoverEveryPositionOnce) {
    Predictions full(kVocab);
    const std::vector<TokenId> tokens(200, 0);
    for (size_t i = 0; i < tokens.size(); ++i) full.add(of_probability(0.5));
    Divergence d(full, tokens);
    for (size_t i = 0; i < tokens.size(); ++i) d.add(of_probability(0.9));
    QualityResult r;
    d.write_to(r);
    int64_t at = 0;
    for (const DivergenceBin& bin : r.kl_by_position) {
        EXPECT_EQ(bin.begin, at);
        EXPECT_GT(bin.end, bin.begin);
        EXPECT_NEAR(bin.kl, r.score, 1e-6);
        at = bin.end;
    }
    EXPECT_EQ(at, 200);
    EXPECT_GE(r.kl_by_position.size(), 3);
}

TEST(Divergence, RefusesWhatTheFullCacheDidNotPredict) {
    const Predictions full(kVocab);
    const std::vector<TokenId> tokens = {0};
    Divergence d(full, tokens);
    EXPECT_THROW(d.add(of_probability(0.5)), Error);
}

}  // namespace
}  // namespace palimpsest
