// What the policy `gate` rates entries with, against plain loops in double precision, however a
// text was divided into steps.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <sstream>

#include "memory/cache/kv_cache.h"
#include "memory/kernels/match_kernel.h"
#include "memory/policy/gate_kernel.h"
#include "support/reference_attention.h"
#include "support/sidecar.h"

namespace palimpsest {
namespace {

using testing::MemoryScript;

constexpr int64_t kLength = 120;
// Tokens that wait are kept in half precision.
constexpr double kWritten = 2e-3;
constexpr double kRead = 2e-5;

/// Widths that fill no vector, and no tile of outputs.
MemoryShape shape_of() {
    return {.n_layer = 3,
            .n_head = 4,
            .n_head_kv = 2,
            .d_head = 32,
            .windows = {0, 16, 0},
            .n_embd = 37};
}

std::vector<double> layer_norm(const std::vector<double>& x, const LayerNorm& norm,
                               double epsilon) {
    const auto n = static_cast<double>(x.size());
    double mean = 0;
    double variance = 0;
    for (const double v : x) mean += v / n;
    for (const double v : x) variance += (v - mean) * (v - mean) / n;
    std::vector<double> y;
    for (size_t i = 0; i < x.size(); ++i) {
        y.push_back((x[i] - mean) / std::sqrt(variance + epsilon) *
                        static_cast<double>(norm.weight[i]) +
                    static_cast<double>(norm.bias[i]));
    }
    return y;
}

/// Element (m, c) of a matrix of f32 in tiles.
double tiled(const GateLayer& w, size_t m, size_t c, size_t n_columns) {
    const size_t tile = kMatchTile;
    float x = 0;
    std::memcpy(&x, w.in.data() + ((m / tile * n_columns + c) * tile + m % tile) * sizeof x,
                sizeof x);
    return static_cast<double>(x);
}

double output(const GateOutput& of, size_t head, const std::vector<double>& middle) {
    auto sum = static_cast<double>(of.bias[head]);
    for (size_t m = 0; m < middle.size(); ++m) {
        sum += static_cast<double>(of.weight[head * middle.size() + m]) * middle[m];
    }
    return sum;
}

std::vector<double> middle_of(const GateWeights& w, const GateLayer& layer,
                              std::span<const float> hidden) {
    const std::vector<double> x =
        layer_norm({hidden.begin(), hidden.end()}, layer.in_norm, static_cast<double>(w.epsilon));
    std::vector<double> middle;
    for (size_t m = 0; m < static_cast<size_t>(w.n_mid); ++m) {
        double sum = 0;
        for (size_t c = 0; c < x.size(); ++c) sum += tiled(layer, m, c, x.size()) * x[c];
        middle.push_back(sum);
    }
    middle = layer_norm(middle, layer.mid_norm, static_cast<double>(w.epsilon));
    for (double& u : middle) {
        u *= 0.5 * (1 + std::tanh(std::sqrt(2 / M_PI) * (u + 0.044715 * u * u * u)));
    }
    return middle;
}

/// A cut's score of an entry that is so old.
double expected_score(const GateWeights& w, const GateLayer& layer, std::span<const float> hidden,
                      size_t head, int64_t age) {
    const std::vector<double> middle = middle_of(w, layer, hidden);
    const double fades = std::log1p(std::exp(output(layer.retention, head, middle)));
    return output(layer.magnitude, head, middle) - fades * static_cast<double>(age) / 16384;
}

KvCacheOptions options(std::function<void(const Cut&)> on_cut) {
    EvictionOptions e = {.policy = "gate", .allocator = "uniform", .residue = "none"};
    e.budget = {.kind = Budget::Kind::kEntries, .count = 48, .share = 0};
    e.n_sink = 0;
    e.n_recent = 0;
    e.interval = 13;
    e.positions = Positions::kOriginal;
    return {.n_ctx = 512,
            .entries = GGML_TYPE_F32,
            .eviction = std::move(e),
            .supplies = {.n_chunk = 40, .learned = testing::small_weights(shape_of())},
            .on_cut = std::move(on_cut)};
}

/// The largest difference from what plain loops say, of all scores of a cut.
double worst(const MemoryScript& script, const Cut& cut, const GateWeights& w) {
    double most = 0;
    for (const int64_t layer : {0, 2}) {
        const auto l = static_cast<size_t>(layer);
        for (size_t h = 0; h < cut.held[l].size(); ++h) {
            for (size_t i = 0; i < cut.held[l][h].size(); ++i) {
                const int64_t p = cut.held[l][h][i];
                const double wanted =
                    expected_score(w, w.layers[l], script.hidden(layer, p), h, cut.n_seen - p);
                most = std::max(most, std::abs(static_cast<double>(cut.scores[l][h][i]) - wanted -
                                               1e-6 * static_cast<double>(p)));
            }
        }
    }
    return most;
}

/// The worst difference in all cuts of a text read in such steps.
double worst_of(const std::vector<int64_t>& steps, int n_threads, int64_t* n_cuts = nullptr) {
    const MemoryScript script(shape_of(), kLength);
    Backend backend(n_threads);
    double most = 0;
    const KvCacheOptions plain = options({});
    const GateWeights& w = *plain.supplies.learned->gate();
    KvCacheOptions o =
        options([&](const Cut& cut) { most = std::max(most, worst(script, cut, w)); });
    o.supplies.learned = plain.supplies.learned;
    KvCache memory(backend, shape_of(), o);
    for (const int64_t n : steps) script.step(backend, memory, memory.usage().positions_seen, n);
    if (n_cuts != nullptr) *n_cuts = memory.report().n_cuts;
    return most;
}

TEST(Gate, RatesWhatIsReadAsPlainLoopsDo) {
    for (const int n_threads : {1, 3}) {
        int64_t n_cuts = 0;
        EXPECT_LT(worst_of({40, 33, 2, 40}, n_threads, &n_cuts), kRead);
        EXPECT_GE(n_cuts, 2);
    }
}

TEST(Gate, RatesWhatIsWrittenAsPlainLoopsDo) {
    for (const int n_threads : {1, 2}) {
        int64_t n_cuts = 0;
        const std::vector<int64_t> all_written(kLength - 40, 1);
        std::vector<int64_t> steps = {40};
        steps.insert(steps.end(), all_written.begin(), all_written.end());
        const double most = worst_of(steps, n_threads, &n_cuts);
        EXPECT_LT(most, kWritten);
        EXPECT_GE(n_cuts, 5);
    }
}

/// Some wait when several come at once, and when a cut comes.
TEST(Gate, RatesWhatWaitsWhenItMust) {
    EXPECT_LT(worst_of({40, 1, 1, 1, 12, 1, 1, 1, 1, 1, 1, 1, 1, 1, 30, 1}, 2), kWritten);
}

TEST(Gate, WhatWaitsIsSaved) {
    const MemoryScript script(shape_of(), kLength);
    Backend backend(1);
    std::vector<Cut> cuts;
    const KvCacheOptions o = options([&](const Cut& cut) { cuts.push_back(cut); });
    KvCache memory(backend, shape_of(), o);
    for (const int64_t n : {int64_t{40}, int64_t{1}, int64_t{1}, int64_t{1}}) {
        script.step(backend, memory, memory.usage().positions_seen, n);
    }
    std::stringstream saved;
    memory.save(saved);
    KvCache other(backend, shape_of(), o);
    other.load(saved);
    ASSERT_TRUE(cuts.empty());
    script.step(backend, memory, 43, 40);
    ASSERT_EQ(cuts.size(), 1);
    script.step(backend, other, 43, 40);
    ASSERT_EQ(cuts.size(), 2);
    EXPECT_EQ(cuts[0].scores, cuts[1].scores);
    EXPECT_EQ(cuts[0].kept, cuts[1].kept);
}

}  // namespace
}  // namespace palimpsest
