#include "bench/quality/bootstrap.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"

namespace palimpsest {
namespace {

TEST(Bootstrap, EqualValuesGiveAnIntervalWithoutWidth) {
    for (const double value : {0.0, 1.0, 0.1}) {
        const std::vector<double> values(17, value);
        const Interval i = bootstrap_mean(values);
        EXPECT_NEAR(i.low, value, 1e-15);
        EXPECT_NEAR(i.high, value, 1e-15);
    }
}

TEST(Bootstrap, OneValueIsItsOwnInterval) {
    const std::vector<double> one = {0.7};
    const Interval i = bootstrap_mean(one);
    EXPECT_EQ(i.mean, 0.7);
    EXPECT_EQ(i.low, 0.7);
    EXPECT_EQ(i.high, 0.7);
}

TEST(Bootstrap, SameValuesGiveTheSameInterval) {
    const std::vector<double> values = {0, 1, 1, 0, 1, 0.5};
    const Interval a = bootstrap_mean(values);
    const Interval b = bootstrap_mean(values);
    EXPECT_EQ(a.low, b.low);
    EXPECT_EQ(a.high, b.high);
}

TEST(Bootstrap, IntervalOfManyCoinsIsNearTheNormalOne) {
    std::vector<double> values(400, 0);
    std::fill_n(values.begin(), 100, 1);
    const Interval i = bootstrap_mean(values);
    EXPECT_EQ(i.mean, 0.25);
    // 1.96 standard errors: 0.0424. 2,000 resamples find each end to within a tenth of that.
    const double half = 1.96 * std::sqrt(0.25 * 0.75 / 400);
    EXPECT_NEAR(i.low, 0.25 - half, 0.006);
    EXPECT_NEAR(i.high, 0.25 + half, 0.006);
}

TEST(Bootstrap, TwoValuesReachFromOneToTheOther) {
    // A quarter of all resamples are {0, 0} and a quarter {1, 1}: more than 2.5 % at each end.
    const std::vector<double> values = {0, 1};
    const Interval i = bootstrap_mean(values);
    EXPECT_EQ(i.mean, 0.5);
    EXPECT_EQ(i.low, 0);
    EXPECT_EQ(i.high, 1);
}

TEST(Bootstrap, IntervalContainsItsMean) {
    std::vector<double> values(50, 0);
    values[0] = 1;  // so rare that many resamples miss it
    const Interval i = bootstrap_mean(values);
    EXPECT_LE(i.low, i.mean);
    EXPECT_GE(i.high, i.mean);
    EXPECT_LT(i.low, i.high);
}

TEST(Bootstrap, RatioOfAMethodThatEqualsTheFullCacheIsOne) {
    const std::vector<double> scores = {0, 1, 0.5, 1, 0};
    const auto i = bootstrap_ratio(scores, scores);
    ASSERT_TRUE(i.has_value());
    EXPECT_EQ(i->mean, 1);
    EXPECT_EQ(i->low, 1);
    EXPECT_EQ(i->high, 1);
}

TEST(Bootstrap, RatioDrawsBothScoresOfASampleTogether) {
    // Half of every sample's score: drawn apart, resamples would differ.
    const std::vector<double> full = {0.2, 1, 0.5, 0.9};
    const std::vector<double> method = {0.1, 0.5, 0.25, 0.45};
    const auto i = bootstrap_ratio(method, full);
    ASSERT_TRUE(i.has_value());
    EXPECT_NEAR(i->low, 0.5, 1e-12);
    EXPECT_NEAR(i->high, 0.5, 1e-12);
}

TEST(Bootstrap, RatioToNothingIsNone) {
    const std::vector<double> zeros = {0, 0};
    EXPECT_FALSE(bootstrap_ratio(zeros, zeros).has_value());
    EXPECT_FALSE(bootstrap_ratio({}, {}).has_value());
    EXPECT_FALSE(bootstrap_mean_ratio({}).has_value());
}

TEST(Bootstrap, ResamplesWithoutAFullScoreDoNotCount) {
    const std::vector<double> full = {0, 0, 1};
    const std::vector<double> method = {0, 0, 0.5};
    const auto i = bootstrap_ratio(method, full);
    ASSERT_TRUE(i.has_value());
    EXPECT_EQ(i->low, 0.5);
    EXPECT_EQ(i->high, 0.5);
}

TEST(Bootstrap, MeanRatioWeighsTasksAlike) {
    const std::vector<double> ten(10, 1);
    const std::vector<double> two(2, 1);
    const std::vector<double> none(10, 0);
    const std::vector<PairedScores> tasks = {{.method = none, .full = ten},
                                             {.method = two, .full = two}};
    const auto i = bootstrap_mean_ratio(tasks);
    ASSERT_TRUE(i.has_value());
    EXPECT_EQ(i->mean, 0.5);
}

TEST(Bootstrap, UnpairedScoresAreAFaultOfOurs) {
    const std::vector<double> one = {1};
    const std::vector<double> two = {1, 1};
    EXPECT_THROW((void)bootstrap_ratio(one, two), Error);
}

}  // namespace
}  // namespace palimpsest
