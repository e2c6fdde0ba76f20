// Gradients by hand against finite differences, on toy sizes; what the losses must be where that
// is known without a computer.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>

#include "core/error.h"
#include "support/layer_tap.h"
#include "train/gate/objective_gate.h"
#include "train/indexer/objective_indexer.h"
#include "train/latent/objective_memory.h"
#include "train/latent/objective_softmax_memory.h"

namespace palimpsest {
namespace {

constexpr AttentionShape kShape = {
    .n_embd = 12, .n_head = 4, .n_head_kv = 2, .d_head = 6, .scale = 0.4F};
constexpr IndexerShape kIndexer = {.n_head = 3, .d_head = 5};

std::vector<float> numbers(int64_t n, uint32_t seed, float scale = 1.0F) {
    auto x = testing::random_layer({.n_embd = n, .n_head = 1, .n_head_kv = 1, .d_head = 1}, 1, seed)
                 .hidden;
    for (float& y : x) y *= scale;
    return x;
}

struct ToyIndexer {
    std::vector<float> q, k, head, q_norm, k_norm, bias;

    explicit ToyIndexer(uint32_t seed, const IndexerShape& shape = kIndexer)
        : q(numbers(shape.width() * kShape.n_query_channels(), seed, 0.3F)),
          k(numbers(shape.d_head * kShape.n_embd, seed + 1, 0.3F)),
          head(numbers(shape.n_head * kShape.n_embd, seed + 2)),
          q_norm(numbers(shape.d_head, seed + 3)),
          k_norm(numbers(shape.d_head, seed + 4)),
          bias(numbers(shape.n_group, seed + 5)) {}
    [[nodiscard]] IndexerParts<const float> view() const {
        return {q, k, head, q_norm, k_norm, bias};
    }
    IndexerParts<float> room() { return {q, k, head, q_norm, k_norm, bias}; }
    void clear() {
        for (std::vector<float>* x : {&q, &k, &head, &q_norm, &k_norm, &bias})
            std::ranges::fill(*x, 0.0F);
    }
};

/// `gradient` of `loss` with respect to `values` is what a small push of each says.
void expect_slopes(std::vector<float>& values, const std::vector<float>& gradient,
                   const std::function<double()>& loss, const char* name) {
    constexpr float kPush = 2e-3F;
    double largest = 1e-6;
    for (const float g : gradient) largest = std::max(largest, std::abs(static_cast<double>(g)));
    for (size_t i = 0; i < values.size(); ++i) {
        const float was = values[i];
        values[i] = was + kPush;
        const double above = loss();
        values[i] = was - kPush;
        const double below = loss();
        values[i] = was;
        const double slope = (above - below) / (2 * static_cast<double>(kPush));
        EXPECT_NEAR(static_cast<double>(gradient[i]), slope, 0.01 * largest) << name << " " << i;
    }
}

struct IndexerCase {
    std::string name;
    IndexerForm form = IndexerForm::kLabelled;
    IndexerLoss kind = IndexerLoss::kDivergence;
    IndexerShape shape = kIndexer;
    int64_t n_recent = 0;
};

std::vector<IndexerCase> indexer_cases() {
    const auto with = [](Activation activation, int64_t n_head, int64_t n_group) {
        return IndexerShape{
            .n_head = n_head, .d_head = 5, .activation = activation, .n_group = n_group};
    };
    return {{.name = "labelled"},
            {.name = "all_pairs", .form = IndexerForm::kAllPairs},
            {.name = "logit_max", .form = IndexerForm::kLogitMax},
            {.name = "recent", .form = IndexerForm::kAllPairs, .n_recent = 3},
            {.name = "leaky_relu", .shape = with(Activation::kLeakyRelu, 3, 1)},
            {.name = "softplus", .shape = with(Activation::kSoftplus, 3, 1)},
            {.name = "identity", .shape = with(Activation::kIdentity, 3, 1)},
            {.name = "by_head", .shape = with(Activation::kRelu, 4, 2)},
            {.name = "logit_max_by_head",
             .form = IndexerForm::kLogitMax,
             .shape = with(Activation::kRelu, 2, 2)},
            {.name = "cuts", .form = IndexerForm::kAllPairs, .kind = IndexerLoss::kCuts},
            {.name = "logs", .kind = IndexerLoss::kLogs},
            {.name = "logs_by_head",
             .kind = IndexerLoss::kLogs,
             .shape = with(Activation::kRelu, 4, 2)},
            {.name = "cuts_by_head",
             .kind = IndexerLoss::kCuts,
             .shape = with(Activation::kSoftplus, 4, 2)}};
}

class IndexerGradients : public ::testing::TestWithParam<IndexerCase> {};

TEST_P(IndexerGradients, AreFiniteDifferences) {
    const testing::TappedLayer layer = testing::random_layer(kShape, 9, 1);
    const LayerRecord record = layer.record(6);
    const auto& [name, form, kind, shape, n_recent] = GetParam();
    const IndexerLesson lesson = {.n_sink = 1, .n_recent = n_recent, .n_group = shape.n_group};
    std::vector<float> scores = numbers(record.n * kShape.n_head_kv, 3);
    for (float& x : scores) x *= x;
    const std::vector<float> cuts = {0.1F, 0.3F, 0.5F};
    const IndexerTarget target = kind == IndexerLoss::kLogs
                                     ? repetition_target(scores, kShape.n_head_kv, lesson, cuts)
                                     : indexer_target(record, form, lesson);
    ToyIndexer weights(7, shape);
    ToyIndexer gradient(0, shape);
    gradient.clear();
    const auto parts = weights.view();
    const IndexerNet net(shape, parts, record);
    const double at_rest = indexer_loss(net, target, kind, 1.0F, gradient.room());
    const auto loss = [&, kind = kind, shape = shape] {
        const auto moved = weights.view();
        return indexer_loss(IndexerNet(shape, moved, record), target, kind);
    };
    EXPECT_EQ(at_rest, loss());
    EXPECT_GT(at_rest, 0);
    expect_slopes(weights.q, gradient.q, loss, "q");
    expect_slopes(weights.k, gradient.k, loss, "k");
    expect_slopes(weights.head, gradient.head, loss, "head");
    expect_slopes(weights.q_norm, gradient.q_norm, loss, "q_norm");
    expect_slopes(weights.k_norm, gradient.k_norm, loss, "k_norm");
    if (kind == IndexerLoss::kLogs) {
        expect_slopes(weights.bias, gradient.bias, loss, "bias");
    } else {  // neither a spread nor a side of a cut depends on it
        for (const float x : gradient.bias) EXPECT_NEAR(x, 0, 1e-6);
    }
}

INSTANTIATE_TEST_SUITE_P(Forms, IndexerGradients, ::testing::ValuesIn(indexer_cases()),
                         [](const auto& test) { return test.param.name; });

TEST(IndexerObjective, AStudentWithoutAnOpinionPaysForTheTeachersEntropy) {
    const testing::TappedLayer layer = testing::random_layer(kShape, 9, 2);
    const LayerRecord record = layer.record(6);
    const IndexerTarget target = indexer_target(record, IndexerForm::kLabelled, {.n_sink = 1});
    ToyIndexer weights(7);
    std::ranges::fill(weights.head, 0.0F);  // all importances are 0
    const auto parts = weights.view();
    double expected = std::log(5.0);
    for (const float p : target.share) {
        expected += static_cast<double>(p) * std::log(static_cast<double>(p));
    }
    EXPECT_NEAR(indexer_loss(IndexerNet(kIndexer, parts, record), target), expected / 5, 1e-6);
}

TEST(IndexerObjective, APromptOfSinksIsTaughtByAllPairs) {
    const testing::TappedLayer layer = testing::random_layer(kShape, 9, 3);
    const IndexerTarget short_prompt =
        indexer_target(layer.record(2), IndexerForm::kLabelled, {.n_sink = 4});
    const IndexerTarget all =
        indexer_target(layer.record(2), IndexerForm::kAllPairs, {.n_sink = 4});
    EXPECT_EQ(short_prompt.share, all.share);
    EXPECT_THROW(indexer_target(layer.record(2), IndexerForm::kAllPairs, {.n_sink = 9}), Error);
}

TEST(IndexerObjective, ARepetitionTeachesRootsOfTheLargestOverHeads) {
    // Five tokens, two heads; the first token is a sink.
    const std::vector<float> scores = {9, 9, 1, 4, 0, 0, 1, 0, 0, 25};
    const IndexerTarget target = repetition_target(scores, 2, {.n_sink = 1});
    EXPECT_EQ(target.share, (std::vector<float>{0.25F, 0, 0.125F, 0.625F}));
    EXPECT_EQ(target.at.first_query, 0);
    EXPECT_EQ(target.at.end_query, 5);
    EXPECT_EQ(target.at.first_key, 1);
    EXPECT_EQ(target.at.end_key, 5);
    EXPECT_EQ(target.divisor, 1);
    EXPECT_THROW(repetition_target(scores, 2, {.n_sink = 5}), Error);
    EXPECT_THROW(repetition_target(scores, 2, {.n_sink = 1, .n_recent = 4}), Error);
    EXPECT_THROW(repetition_target(std::vector<float>(10), 2, {.n_sink = 1}), Error);  // all zero
}

TEST(IndexerObjective, EachHeadIsTaughtByItsOwnScoresUpToTheRecent) {
    const std::vector<float> scores = {9, 9, 1, 4, 0, 0, 1, 0, 0, 25};
    const IndexerTarget target =
        repetition_target(scores, 2, {.n_sink = 1, .n_recent = 1, .n_group = 2});
    EXPECT_EQ(target.share, (std::vector<float>{0.5F, 0, 0.5F, 1, 0, 0}));
    EXPECT_EQ(target.at.end_query, 5);
    EXPECT_EQ(target.at.end_key, 4);
}

/// A group's teacher is the attention of the heads that share its KV heads.
TEST(IndexerObjective, AGroupIsTaughtByItsOwnHeads) {
    const testing::TappedLayer layer = testing::random_layer(kShape, 9, 2);
    const LayerRecord record = layer.record(6);
    const IndexerTarget both =
        indexer_target(record, IndexerForm::kLabelled, {.n_sink = 1, .n_group = 2});
    testing::TappedLayer second = layer;  // the first group's heads are the second's
    const int64_t half = kShape.n_query_channels() / 2;
    const int64_t half_kv = kShape.n_head_kv * kShape.d_head / 2;
    for (int64_t t = 0; t < record.n; ++t) {
        std::copy_n(layer.q.begin() + (2 * t + 1) * half, half, second.q.begin() + 2 * t * half);
        std::copy_n(layer.k.begin() + (2 * t + 1) * half_kv, half_kv,
                    second.k.begin() + 2 * t * half_kv);
    }
    const IndexerTarget alone =
        indexer_target(second.record(6), IndexerForm::kLabelled, {.n_sink = 1});
    ASSERT_EQ(both.share.size(), 2 * alone.share.size());
    for (size_t i = 0; i < alone.share.size(); ++i) {
        EXPECT_NEAR(both.share[alone.share.size() + i], alone.share[i], 1e-6F);
    }
}

/// A student that ranks as its teacher, with wide gaps, pays nothing for cuts; one that ranks the
/// other way round pays much; one without an opinion pays the entropy of the shares kept.
TEST(IndexerObjective, CutsAskForTheTeachersOrder) {
    const testing::TappedLayer layer = testing::random_layer(kShape, 9, 2);
    const LayerRecord record = layer.record(6);
    IndexerTarget target = indexer_target(record, IndexerForm::kAllPairs, {.n_sink = 1});
    ToyIndexer weights(7);
    for (float& x : weights.head) x *= 1000;
    const auto parts = weights.view();
    const IndexerNet net(kIndexer, parts, record);
    target.share = net.importance(target.at).largest;
    const double agreeing = indexer_loss(net, target, IndexerLoss::kCuts);
    for (float& x : target.share) x = -x;
    EXPECT_GT(indexer_loss(net, target, IndexerLoss::kCuts), 1);
    EXPECT_LT(agreeing, 0.1);
    ToyIndexer silent(7);
    std::ranges::fill(silent.head, 0.0F);
    const auto of_silent = silent.view();
    double entropy = 0;  // of 8 keys 4, 2 and 1 stay
    for (const double c : {4.0 / 8, 2.0 / 8, 1.0 / 8}) {
        entropy -= c * std::log(c) + (1 - c) * std::log(1 - c);
    }
    EXPECT_NEAR(indexer_loss(IndexerNet(kIndexer, of_silent, record), target, IndexerLoss::kCuts),
                entropy, 1e-6);
}

TEST(IndexerObjective, LogarithmsNeedARepetition) {
    const testing::TappedLayer layer = testing::random_layer(kShape, 9, 2);
    const LayerRecord record = layer.record(6);
    ToyIndexer weights(7);
    const auto parts = weights.view();
    const IndexerNet net(kIndexer, parts, record);
    EXPECT_THROW(indexer_loss(net, indexer_target(record, IndexerForm::kAllPairs, {.n_sink = 1}),
                              IndexerLoss::kLogs),
                 Error);
    // Of a score of one the logarithm is 0, of none the least that is told apart.
    const std::vector<float> scores = {1, 0, 1, 1, 0, 0, 1, 0, 0, 1};
    const IndexerTarget target =
        repetition_target(scores, 2, {.n_sink = 1}, std::vector<float>{1.0F});
    EXPECT_EQ(target.logs, (std::vector<float>{0, kLeastLogScore, 0, 0}));
    EXPECT_EQ(target.cuts, (std::vector<float>{0}));
}

HeadRows in_all_heads(const std::vector<int32_t>& rows) {
    return HeadRows(static_cast<size_t>(kShape.n_head_kv), rows);
}

class MemoryObjective : public ::testing::TestWithParam<MemoryRule> {};

TEST_P(MemoryObjective, GradientsAreFiniteDifferences) {
    const testing::TappedLayer layer = testing::random_layer(kShape, 11, 4);
    const LayerRecord record = layer.record(8);
    const MemoryTarget target = memory_target(record, {{1, 3, 4, 6}, {2, 7}});
    std::vector<float> phi = numbers(int64_t{7} * 6, 5);
    std::vector<float> gate = {0.3F};
    std::vector<float> d_phi(phi.size());
    std::vector<float> d_gate(1);
    const auto loss = [&] {
        return memory_loss(record, target, {phi, gate}, GetParam(), 1.0F, {});
    };
    const double learned =
        memory_loss(record, target, {phi, gate}, GetParam(), 1.0F, {d_phi, d_gate});
    EXPECT_EQ(learned, loss());
    expect_slopes(phi, d_phi, loss, "phi");
    expect_slopes(gate, d_gate, loss, "gate");
}

// A floor above most denominators, and values so short that answers are clipped.
INSTANTIATE_TEST_SUITE_P(Rules, MemoryObjective,
                         ::testing::Values(MemoryRule{}, MemoryRule{.floor = 200.0F},
                                           MemoryRule{.clips = true}));

TEST(MemoryObjective, NothingEvictedIsNothingMissing) {
    const testing::TappedLayer layer = testing::random_layer(kShape, 11, 6);
    const MemoryTarget target = memory_target(layer.record(8), in_all_heads({}));
    for (const float x : target.missing) EXPECT_NEAR(x, 0, 1e-6F);
    EXPECT_THROW(memory_target(layer.record(11), in_all_heads({1})), Error);
    EXPECT_THROW(memory_target(layer.record(8), in_all_heads({8})), Error);
    EXPECT_THROW(memory_target(layer.record(8), {{1}}), Error);  // of one head of two
}

TEST(MemoryObjective, HeadsLoseWhatIsTheirs) {
    const testing::TappedLayer layer = testing::random_layer(kShape, 11, 6);
    const HeadRows uneven = {{1, 3, 4, 6}, {2, 7}};
    const MemoryTarget target = memory_target(layer.record(8), uneven);
    const auto width = static_cast<size_t>(kShape.group() * kShape.d_head);
    for (size_t h = 0; h < uneven.size(); ++h) {
        const MemoryTarget alike = memory_target(layer.record(8), in_all_heads(uneven[h]));
        for (size_t i = 0; i < target.missing.size(); ++i) {
            if (i / width % 2 != h) continue;
            EXPECT_EQ(target.missing[i], alike.missing[i]) << "head " << h << " at " << i;
        }
    }
}

TEST(MemoryObjective, ClippedAnswersAreNoLongerThanValues) {
    const testing::TappedLayer layer = testing::random_layer(kShape, 11, 8);
    const LayerRecord record = layer.record(8);
    MemoryTarget target = memory_target(record, in_all_heads({1, 3, 4, 6}));
    std::ranges::fill(target.missing, 0.0F);
    const std::vector<float> phi = numbers(int64_t{7} * 6, 5, 1e-3F);  // answers would be huge
    const std::vector<float> gate = {40.0F};                           // its sigmoid is 1
    float longest = 0;
    for (const int32_t t : target.evicted[0]) {
        for (int64_t h = 0; h < kShape.n_head_kv; ++h) {
            float squared = 0;
            for (int64_t c = 0; c < kShape.d_head; ++c) {
                squared += record.value(t, h)[c] * record.value(t, h)[c];
            }
            longest = std::max(longest, squared);
        }
    }
    const double clipped = memory_loss(record, target, {phi, gate}, {.clips = true}, 1.0F, {});
    const double wild = memory_loss(record, target, {phi, gate}, {}, 1.0F, {});
    EXPECT_LE(clipped, static_cast<double>(longest) / static_cast<double>(kShape.d_head) + 1e-6);
    EXPECT_GT(wild, 100 * clipped);
}

TEST(SoftmaxMemoryObjective, GradientsAreFiniteDifferences) {
    const testing::TappedLayer layer = testing::random_layer(kShape, 11, 4);
    const LayerRecord record = layer.record(8);
    const MemoryTarget target = memory_target(record, {{1, 3, 4, 6}, {2, 7}});
    const int64_t n = 3 * kShape.n_head_kv;  // features of all heads
    std::vector<float> key = numbers(n * kShape.d_head, 5);
    std::vector<float> key_bias = numbers(n, 6);
    std::vector<float> query = numbers(n * kShape.d_head, 7);
    std::vector<float> query_bias = numbers(n, 8);
    std::vector<float> d_key(key.size());
    std::vector<float> d_key_bias(key_bias.size());
    std::vector<float> d_query(query.size());
    std::vector<float> d_query_bias(query_bias.size());
    const auto loss = [&] {
        return softmax_memory_loss(record, target, {key, key_bias, query, query_bias}, 1.0F, {});
    };
    const double learned = softmax_memory_loss(record, target, {key, key_bias, query, query_bias},
                                               1.0F, {d_key, d_key_bias, d_query, d_query_bias});
    EXPECT_EQ(learned, loss());
    expect_slopes(key, d_key, loss, "key");
    expect_slopes(key_bias, d_key_bias, loss, "key bias");
    expect_slopes(query, d_query, loss, "query");
    expect_slopes(query_bias, d_query_bias, loss, "query bias");
}

/// One feature is one mean entry; if a single entry went and the query meets it as attention
/// would, nothing is missing.
TEST(SoftmaxMemoryObjective, OneEntryMetAsItsKeyIsGivenBack) {
    const testing::TappedLayer layer = testing::random_layer(kShape, 11, 6);
    const LayerRecord record = layer.record(8);
    MemoryTarget target = memory_target(record, in_all_heads({5}));
    target.readers.resize(1);
    target.missing.resize(static_cast<size_t>(kShape.n_query_channels()));
    const int64_t n = kShape.n_head_kv;
    const std::vector<float> zeros(static_cast<size_t>(n * kShape.d_head));
    const std::vector<float> no_bias(static_cast<size_t>(n));
    std::vector<float> query;
    for (int64_t h = 0; h < n; ++h) {
        for (int64_t c = 0; c < kShape.d_head; ++c) {
            query.push_back(kShape.scale * record.key(5, h)[c]);
        }
    }
    const SoftmaxMemoryParts<const float> exact = {zeros, no_bias, query, no_bias};
    EXPECT_LE(softmax_memory_loss(record, target, exact, 0, {}), 1e-10);
    const SoftmaxMemoryParts<const float> flat = {zeros, no_bias, zeros, no_bias};
    EXPECT_GT(softmax_memory_loss(record, target, flat, 0, {}), 1e-4);
    EXPECT_THROW(softmax_memory_loss(record, target, {zeros, no_bias, query, zeros}, 0, {}), Error);
}

TEST(MemoryObjective, WhatStaysAndWhatIsMissingAreTheWholeAnswer) {
    const testing::TappedLayer layer = testing::random_layer(kShape, 11, 6);
    const LayerRecord record = layer.record(8);
    const MemoryTarget none = memory_target(record, in_all_heads({}));
    const MemoryTarget some = memory_target(record, {{1, 3, 4, 6}, {2, 7}});
    for (size_t i = 0; i < none.stays.size(); ++i) {
        EXPECT_NEAR(some.stays[i] + some.missing[i], none.stays[i], 1e-5F);
    }
    for (size_t i = 0; i < none.lse.size(); ++i) EXPECT_LT(some.lse[i], none.lse[i]);
}

TEST(RowsToEvict, KeepsSinksAndTheEarlierOfEquals) {
    const std::vector<float> importance = {0, 0, 0, 0, 5, 1, 1, 7};
    EXPECT_EQ(rows_to_evict(importance, 0.25, 4), (std::vector<int32_t>{5, 6}));
}

}  // namespace
}  // namespace palimpsest
