// The way back through banks of states: outputs from decisions are the bank's own, and gradients
// are what central differences say, in double precision.

#include "train/linear/bank_scan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

#include "core/error.h"

namespace palimpsest {
namespace {

constexpr int64_t kTokens = 70, kRows = 3, kColumns = 4;  // states are kept every 32 tokens

struct Case {
    const char* name;
    StateRule rule;
    BankOptions options;
};

/// A head's inputs and room for their gradients.
template <typename Real>
struct Head {
    std::vector<Real> q, k, v, stays, write, weights;

    [[nodiscard]] ScanInputs<Real> inputs(int64_t n_states) const {
        return {.n = kTokens,
                .q = q.data(),
                .k = k.data(),
                .v = v.data(),
                .key_step = kRows,
                .value_step = kColumns,
                .stays = stays.data(),
                .write = write.data(),
                .head_step = 1,
                .weights = weights.data(),
                .weights_step = n_states};
    }
    [[nodiscard]] ScanGradients<Real> gradients() {
        return {.q = q.data(),
                .k = k.data(),
                .v = v.data(),
                .stays = stays.data(),
                .write = write.data(),
                .weights = weights.data()};
    }
    [[nodiscard]] std::vector<std::vector<Real>*> all() {
        return {&q, &k, &v, &stays, &write, &weights};
    }
};

template <typename Real>
Head<Real> random_head(int64_t n_states) {
    std::mt19937 engine(3);
    std::normal_distribution<double> normal;
    std::uniform_real_distribution<double> unit;
    Head<Real> h;
    const auto fill = [&](std::vector<Real>& to, int64_t width, auto value) {
        to.resize(static_cast<size_t>(kTokens * width));
        // The same numbers in both precisions.
        for (Real& x : to) x = static_cast<Real>(static_cast<float>(value()));
    };
    fill(h.q, kRows, [&] { return normal(engine); });
    fill(h.k, kRows, [&] { return normal(engine); });
    fill(h.v, kColumns, [&] { return normal(engine); });
    fill(h.stays, 1, [&] { return 0.8 + 0.2 * unit(engine); });
    fill(h.write, 1, [&] { return 0.2 + 0.6 * unit(engine); });
    fill(h.weights, n_states, [&] { return 0.5 + unit(engine); });
    // Keys of unit length, as the delta rule has them.
    for (int64_t t = 0; t < kTokens; ++t) {
        Real* key = h.k.data() + t * kRows;
        const Real length = std::sqrt(key[0] * key[0] + key[1] * key[1] + key[2] * key[2]);
        for (int64_t r = 0; r < kRows; ++r) {
            key[r] = static_cast<Real>(static_cast<float>(key[r] / length));
        }
    }
    return h;
}

class BankScan : public ::testing::TestWithParam<Case> {
 protected:
    [[nodiscard]] BankShape shape() const {
        return {.rule = GetParam().rule, .n_rows = kRows, .n_columns = kColumns};
    }
    [[nodiscard]] const BankOptions& options() const { return GetParam().options; }
    std::vector<BankStep> decide(std::vector<float>& out) const {
        const Head<float> head = random_head<float>(options().n_states);
        out.resize(static_cast<size_t>(kTokens * kColumns));
        return run_bank(shape(), options(), head.inputs(options().n_states), out.data(), kColumns);
    }
};

TEST_P(BankScan, DecisionsGiveTheBanksOwnOutputs) {
    std::vector<float> out;
    const auto steps = decide(out);
    const Head<double> head = random_head<double>(options().n_states);
    std::vector<double> again(out.size());
    replay_bank(shape(), options(), steps, head.inputs(options().n_states), again.data(), kColumns);
    for (size_t i = 0; i < out.size(); ++i) {
        ASSERT_NEAR(out[i], again[i], 1e-4 * (1 + std::abs(again[i]))) << i;
    }
    int64_t n_merged = 0;
    for (const BankStep& s : steps) {
        std::vector<int32_t> to = s.to;
        std::erase(to, -1);
        std::ranges::sort(to);
        n_merged += std::ranges::adjacent_find(to) != to.end() ? 1 : 0;
    }
    EXPECT_EQ(n_merged > 3, options().n_states > 1);
}

TEST_P(BankScan, GradientsAreWhatCentralDifferencesSay) {
    std::vector<float> out;
    const auto steps = decide(out);
    const int64_t n_states = options().n_states;
    Head<double> head = random_head<double>(n_states);
    std::vector<double> direction(out.size());
    std::mt19937 engine(9);
    std::normal_distribution<double> normal;
    for (double& x : direction) x = normal(engine);
    const auto loss = [&] {
        std::vector<double> y(out.size());
        replay_bank(shape(), options(), steps, head.inputs(n_states), y.data(), kColumns);
        double sum = 0;
        for (size_t i = 0; i < y.size(); ++i) sum += y[i] * direction[i];
        return sum;
    };
    Head<double> gradient = head;
    for (auto* values : gradient.all()) std::ranges::fill(*values, 0.0);
    bank_gradients(shape(), options(), steps, head.inputs(n_states), direction.data(), kColumns,
                   gradient.gradients());
    const auto inputs = head.all();
    const auto slopes = gradient.all();
    constexpr double kPush = 1e-5;
    for (size_t kind = 0; kind < inputs.size(); ++kind) {
        double largest = 1e-3;
        for (const double g : *slopes[kind]) largest = std::max(largest, std::abs(g));
        for (size_t i = 0; i < inputs[kind]->size(); i += 3) {
            double& x = (*inputs[kind])[i];
            const double was = x;
            x = was + kPush;
            const double above = loss();
            x = was - kPush;
            const double below = loss();
            x = was;
            ASSERT_NEAR((*slopes[kind])[i], (above - below) / (2 * kPush), 1e-6 * largest)
                << "input " << kind << ", value " << i;
        }
    }
}

const BankOptions kDynamic = {.name = "dla", .n_states = 4, .threshold = 1.2F};

INSTANTIATE_TEST_SUITE_P(
    Banks, BankScan,
    ::testing::Values(
        Case{"scalar_dla", StateRule::kScalarDecay, kDynamic},
        Case{"delta_dla", StateRule::kGatedDelta, kDynamic},
        Case{"delta_single", StateRule::kGatedDelta, {.name = "dla", .n_states = 1}},
        Case{"scalar_decay_only",
             StateRule::kScalarDecay,
             {.name = "dla", .n_states = 4, .closed = ClosedStates::kDecay}},
        Case{"delta_decay_only",
             StateRule::kGatedDelta,
             {.name = "dla", .n_states = 4, .threshold = 1.2F, .closed = ClosedStates::kDecay}},
        Case{"delta_archive",
             StateRule::kGatedDelta,
             {.name = "dla", .n_states = 4, .threshold = 1.2F, .closed = ClosedStates::kNothing}},
        Case{"delta_ward", StateRule::kGatedDelta, {.name = "ward", .n_states = 3}},
        Case{"scalar_equal", StateRule::kScalarDecay, {.name = "equal", .n_states = 4, .block = 9}},
        Case{
            "delta_random", StateRule::kGatedDelta, {.name = "random", .n_states = 4, .rate = 0.3}},
        Case{"scalar_log_linear", StateRule::kScalarDecay, {.name = "log-linear", .n_states = 6}},
        Case{"delta_log_linear", StateRule::kGatedDelta, {.name = "log-linear", .n_states = 8}}),
    [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace palimpsest
