// Banks of states against golden vectors, by hand-sized numbers and by what must always hold.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <random>
#include <sstream>

#include "core/error.h"
#include "core/random.h"
#include "memory/recurrent/state_bank.h"
#include "support/golden.h"

namespace palimpsest {
namespace {

/// One layer's inputs, token after token, head after head.
struct Inputs {
    int64_t n = 0, n_head = 0, d_k = 0, d_v = 0;
    std::vector<float> q = {}, k = {}, v = {}, g = {}, beta = {}, weights = {};
    int64_t n_weights = 0;

    /// `out` must have room for a head's values. `n_used`: of the weights.
    [[nodiscard]] BankToken token(int64_t t, int64_t head, float* out) const {
        const int64_t at = t * n_head + head;
        return {.q = q.data() + at * d_k,
                .k = k.data() + at * d_k,
                .v = v.data() + at * d_v,
                .stays = std::exp(g[static_cast<size_t>(at)]),
                .write = beta.empty() ? 1.0F : beta[static_cast<size_t>(at)],
                .weights = weights.empty() ? nullptr : weights.data() + at * n_weights,
                .out = out};
    }
    [[nodiscard]] BankShape shape() const {
        return {.rule = beta.empty() ? StateRule::kScalarDecay : StateRule::kGatedDelta,
                .n_rows = d_k,
                .n_columns = d_v};
    }
};

class Golden {
 public:
    explicit Golden(std::filesystem::path folder)
        : folder_(std::move(folder)), json_(testing::read_json(folder_ / "golden.json")) {}
    [[nodiscard]] const nlohmann::json& json() const { return json_; }
    [[nodiscard]] std::vector<float> values(const nlohmann::json& field) const {
        return testing::read_f32(folder_ / field["file"].get<std::string>());
    }
    [[nodiscard]] Inputs inputs(const char* weights) const {
        const auto& c = json_["config"];
        const auto& in = json_["inputs"];
        Inputs i = {.n = c["T"], .n_head = c["heads"], .d_k = c["d_k"], .d_v = c["d_v"]};
        i.q = values(in["q"]);
        i.k = values(in["k"]);
        i.v = values(in["v"]);
        i.g = values(in["g"]);
        if (in.contains("beta")) i.beta = values(in["beta"]);
        if (weights == nullptr) return i;
        i.weights = values(in[weights]);
        i.n_weights = in[weights]["shape"][2];
        return i;
    }

 private:
    std::filesystem::path folder_;
    nlohmann::json json_;
};

/// Row `i` of values [..][width].
std::span<const float> row(const std::vector<float>& values, size_t i, size_t width) {
    return std::span(values).subspan(i * width, width);
}

class BankGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(BankGolden, DynamicLinearAttention) {
    REQUIRE_ORACLES();
    const Golden golden(*oracle_folder / "linear" / "multistate" / GetParam());
    const Inputs in = golden.inputs("lambda_dla");
    size_t n_cases = 0;
    for (const auto& c : golden.json()["dla"]) {
        SCOPED_TRACE(c["name"].get<std::string>());
        const auto closed = c["closed_slots"].get<std::string>();
        BankOptions o;
        o.n_states = c["K"];
        o.threshold = c["tau"];
        o.first_score = c["first_score"];
        o.closed = closed_states_named(closed == "decay only" ? "decay" : closed);
        const auto outputs = golden.values(c["outputs"]);
        const auto scores = golden.values(c["scores"]);
        const auto counts = golden.values(c["n"]);
        const auto information = golden.values(c["information"]);
        const auto slots = golden.values(c["slots"]);
        const auto slot_steps = c["slot_steps"].get<std::vector<int64_t>>();
        const auto n_states = static_cast<size_t>(o.n_states);
        const auto d_v = static_cast<size_t>(in.d_v);
        for (int64_t head = 0; head < in.n_head; ++head) {
            const auto bank = make_bank(in.shape(), o);
            std::vector<int64_t> boundaries;
            std::vector<std::vector<int64_t>> merges;
            for (int64_t t = 0; t < in.n; ++t) {
                const auto at = static_cast<size_t>(t * in.n_head + head);
                std::vector<float> out(d_v);
                bank->take_in(in.token(t, head, out.data()));
                EXPECT_LT(testing::max_difference(out, row(outputs, at, d_v)), 1e-4);
                EXPECT_NEAR(bank->decision().score, scores[at], 1e-4);
                if (bank->decision().opens) boundaries.push_back(t);
                if (bank->decision().merged >= 0) merges.push_back({t, bank->decision().merged});
                const std::vector<BankState> states = bank->states();
                for (size_t s = 0; s < n_states; ++s) {
                    const bool is_used = s < states.size();
                    EXPECT_EQ(is_used ? static_cast<float>(states[s].n) : 0.0F,
                              counts[at * n_states + s]);
                    EXPECT_NEAR(is_used ? states[s].information : 0.0F,
                                information[at * n_states + s], 1e-4);
                }
                const auto step = std::ranges::find(slot_steps, t);
                if (step == slot_steps.end()) continue;
                const size_t size = in.shape().values();
                const auto place =
                    static_cast<size_t>((step - slot_steps.begin()) * in.n_head + head);
                for (size_t s = 0; s < states.size(); ++s) {
                    EXPECT_LT(testing::max_difference(states[s].values,
                                                      row(slots, place * n_states + s, size)),
                              1e-4);
                }
            }
            const auto h = static_cast<size_t>(head);
            EXPECT_EQ(boundaries, c["boundaries"][h].get<std::vector<int64_t>>());
            EXPECT_EQ(merges, c["merges"][h].get<std::vector<std::vector<int64_t>>>());
        }
        ++n_cases;
    }
    EXPECT_GE(n_cases, 9U);
}

TEST_P(BankGolden, LogLinear) {
    REQUIRE_ORACLES();
    const Golden golden(*oracle_folder / "linear" / "multistate" / GetParam());
    const Inputs in = golden.inputs("lambda_levels");
    const auto& c = golden.json()["log_linear"];
    BankOptions o;
    o.name = "log-linear";
    o.n_states = c["levels"];
    const auto outputs = golden.values(c["outputs"]);
    const auto states = golden.values(c["states"]);
    const auto steps = c["state_steps"].get<std::vector<int64_t>>();
    const auto d_v = static_cast<size_t>(in.d_v);
    const size_t size = in.shape().values();
    for (int64_t head = 0; head < in.n_head; ++head) {
        const auto bank = make_bank(in.shape(), o);
        for (int64_t t = 0; t < in.n; ++t) {
            const auto at = static_cast<size_t>(t * in.n_head + head);
            std::vector<float> out(d_v);
            bank->take_in(in.token(t, head, out.data()));
            EXPECT_LT(testing::max_difference(out, row(outputs, at, d_v)), 1e-4);
            const std::vector<BankState> levels = bank->states();
            int64_t n_live = 0;
            for (size_t l = 0; l < levels.size(); ++l) {
                EXPECT_EQ(levels[l].n, c["counts"][static_cast<size_t>(t)][l].get<int64_t>());
                n_live += levels[l].n > 0 ? 1 : 0;
            }
            EXPECT_EQ(n_live, std::popcount(static_cast<uint64_t>(t)) + 1);
            const auto step = std::ranges::find(steps, t);
            if (step == steps.end()) continue;
            const auto place = static_cast<size_t>((step - steps.begin()) * in.n_head + head);
            for (size_t l = 0; l < levels.size(); ++l) {
                const auto wanted = row(states, place * levels.size() + l, size);
                EXPECT_LT(testing::max_difference(levels[l].values, wanted), 1e-4);
            }
        }
    }
}

/// By plain loops: what Ward's cost says of states as the token left them.
TEST(BankWard, MergesByTheMeansOfStatesAsTheTokenLeavesThem) {
    constexpr size_t kRows = 3;
    constexpr size_t kColumns = 2;
    constexpr size_t kMost = 3;
    struct Stretch {
        std::array<double, kRows* kColumns> s = {};
        double n = 0;
    };
    const auto exact = [](float x) { return static_cast<double>(x); };
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    const auto bank = make_bank({StateRule::kGatedDelta, kRows, kColumns},
                                {.name = "ward", .n_states = kMost, .threshold = 0.9F});
    std::vector<Stretch> all;
    int64_t n_merged = 0;
    for (int t = 0; t < 200; ++t) {
        std::array<float, kRows> q = {};
        std::array<float, kRows> k = {};
        std::array<float, kColumns> v = {};
        std::array<float, kColumns> out = {};
        for (float& x : q) x = normal(random);
        for (float& x : k) x = normal(random);
        for (float& x : v) x = normal(random);
        const float length = std::sqrt(k[0] * k[0] + k[1] * k[1] + k[2] * k[2]);
        for (float& x : k) x /= length;
        constexpr float kStays = 0.9F;
        constexpr float kWrite = 0.8F;
        bank->take_in({.q = q.data(),
                       .k = k.data(),
                       .v = v.data(),
                       .stays = kStays,
                       .write = kWrite,
                       .out = out.data()});
        const BankDecision& d = bank->decision();
        for (Stretch& of : all) {
            for (size_t c = 0; c < kColumns; ++c) {
                double read = 0;
                for (size_t r = 0; r < kRows; ++r) read += exact(k[r]) * of.s[r * kColumns + c];
                for (size_t r = 0; r < kRows; ++r) {
                    double& x = of.s[r * kColumns + c];
                    x = exact(kStays) * (x - exact(kWrite * k[r]) * read);
                }
            }
        }
        const bool opens = all.empty() || d.opens;
        ASSERT_EQ(d.merged >= 0, opens && all.size() == kMost) << t;
        if (d.merged >= 0) {
            std::vector<double> costs;
            for (size_t i = 0; i + 1 < kMost; ++i) {
                double apart = 0;
                for (size_t j = 0; j < all[i].s.size(); ++j) {
                    apart += std::pow(all[i].s[j] / all[i].n - all[i + 1].s[j] / all[i + 1].n, 2);
                }
                costs.push_back(all[i].n * all[i + 1].n / (all[i].n + all[i + 1].n) * apart);
            }
            const auto best = std::ranges::min_element(costs) - costs.begin();
            ASSERT_EQ(d.merged, best) << t;
            ++n_merged;
            const auto i = static_cast<size_t>(best);
            for (size_t j = 0; j < all[i].s.size(); ++j) all[i].s[j] += all[i + 1].s[j];
            all[i].n += all[i + 1].n;
            all.erase(all.begin() + best + 1);
        }
        if (opens) all.emplace_back();
        for (size_t r = 0; r < kRows; ++r) {
            for (size_t c = 0; c < kColumns; ++c)
                all.back().s[r * kColumns + c] += exact(kWrite * k[r] * v[c]);
        }
        all.back().n += 1;
        for (size_t c = 0; c < kColumns; ++c) {
            double wanted = 0;
            for (const Stretch& of : all) {
                for (size_t r = 0; r < kRows; ++r) wanted += exact(q[r]) * of.s[r * kColumns + c];
            }
            ASSERT_NEAR(out[c], wanted, 1e-4) << t;
        }
    }
    EXPECT_GT(n_merged, 20);
}

INSTANTIATE_TEST_SUITE_P(Rules, BankGolden, ::testing::Values("mamba2", "gdn"),
                         [](const auto& one) { return one.param; });

// ---- hand-sized numbers (specification, appendix A) ----

struct ByHand {
    const char* name;
    StateRule rule;
    float stays, write;
    float score;  // of token 6
    std::vector<std::vector<float>> outputs;
};

class BankByHand : public ::testing::TestWithParam<ByHand> {};

TEST_P(BankByHand, EightTokens) {
    const ByHand& p = GetParam();
    const std::vector<std::vector<float>> k = {{1, 0}, {0, 1},     {1, 0}, {1, 0},
                                               {1, 0}, {.8F, .6F}, {0, 1}, {.6F, .8F}};
    const std::vector<std::vector<float>> v = {{1, 0}, {0, 2}, {0, 1}, {0, 2},
                                               {0, 1}, {0, 1}, {1, 1}, {1, 0}};
    const std::vector<std::vector<float>> q = {{1, 1}, {1, 0}, {0, 1}, {1, 2},
                                               {1, 1}, {2, 1}, {1, 1}, {1, -1}};
    const std::vector<float> weights = {1, .5F, .25F};
    const std::vector<float> scores = {0, 1.414214F, 1.414214F, 0, 0, .632456F, p.score, .932003F};
    const std::vector<bool> opens = {true, true, true, false, false, false, true, true};
    const std::vector<int64_t> merged = {-1, -1, -1, -1, -1, -1, 1, 0};
    BankOptions o;
    o.n_states = 3;
    o.threshold = .7F;
    const auto bank = make_bank({.rule = p.rule, .n_rows = 2, .n_columns = 2}, o);
    for (size_t t = 0; t < k.size(); ++t) {
        SCOPED_TRACE(t);
        std::vector<float> out(2);
        bank->take_in({.q = q[t].data(),
                       .k = k[t].data(),
                       .v = v[t].data(),
                       .stays = p.stays,
                       .write = p.write,
                       .weights = weights.data(),
                       .out = out.data()});
        // Squared: near 0 a root turns a last bit into much.
        EXPECT_NEAR(std::pow(bank->decision().score, 2), std::pow(scores[t], 2), 1e-5);
        EXPECT_EQ(bank->decision().opens, opens[t]);
        EXPECT_EQ(bank->decision().merged, merged[t]);
        EXPECT_LT(testing::max_difference(out, p.outputs[t]), 1e-5);
    }
    const std::vector<BankState> states = bank->states();
    ASSERT_EQ(states.size(), 3U);
    EXPECT_EQ(states[0].n, 6);
    EXPECT_EQ(states[1].n, 1);
    EXPECT_EQ(states[2].n, 1);
}

INSTANTIATE_TEST_SUITE_P(Rules, BankByHand,
                         ::testing::Values(ByHand{"no_decay",
                                                  StateRule::kScalarDecay,
                                                  1,
                                                  1,
                                                  1.350773F,
                                                  {{1, 0},
                                                   {.5F, 0},
                                                   {0, 1},
                                                   {.25F, 5},
                                                   {.25F, 5},
                                                   {.5F, 11.2F},
                                                   {1.25F, 4.7F},
                                                   {-.45F, .05F}}},
                                           ByHand{"decay",
                                                  StateRule::kScalarDecay,
                                                  .9F,
                                                  1,
                                                  1.338917F,
                                                  {{1, 0},
                                                   {.45F, 0},
                                                   {0, .9F},
                                                   {.18225F, 4.52F},
                                                   {.164025F, 4.339F},
                                                   {.295245F, 9.3541F},
                                                   {1.13286F, 3.68254F},
                                                   {-.530426F, -.017298F}}},
                                           ByHand{"delta",
                                                  StateRule::kGatedDelta,
                                                  .9F,
                                                  .5F,
                                                  1.378909F,
                                                  {{.5F, 0},
                                                   {.225F, 0},
                                                   {0, .45F},
                                                   {.022781F, 2.035F},
                                                   {.010252F, 1.41575F},
                                                   {.010334F, 2.271197F},
                                                   {.50465F, 1.036115F},
                                                   {-.300788F, -.07375F}}}),
                         [](const auto& one) { return one.param.name; });

// ---- what must always hold ----

Inputs random_inputs(StateRule rule, int64_t n, uint64_t seed) {
    Random random(seed);
    Inputs in = {.n = n, .n_head = 1, .d_k = 5, .d_v = 3};
    const auto next = [&random] { return static_cast<float>(2 * random.unit() - 1); };
    for (int64_t t = 0; t < n; ++t) {
        float norm = 0;
        for (int i = 0; i < 5; ++i) {
            in.q.push_back(next());
            in.k.push_back(next());
            norm += in.k.back() * in.k.back();
        }
        for (int i = 0; i < 5; ++i)
            in.k[in.k.size() - 1 - static_cast<size_t>(i)] /= std::sqrt(norm);
        for (int i = 0; i < 3; ++i) in.v.push_back(next());
        in.g.push_back(-0.1F - 0.1F * next());
        if (rule == StateRule::kGatedDelta) in.beta.push_back(0.5F + 0.4F * next());
    }
    return in;
}

/// Outputs and sums of states, token by token, as one state gives them.
void expect_single_state(const Inputs& in, const BankOptions& o) {
    const BankShape shape = in.shape();
    const auto bank = make_bank(shape, o);
    std::vector<float> single(shape.values());
    for (int64_t t = 0; t < in.n; ++t) {
        std::vector<float> out(3);
        std::vector<float> wanted(3);
        const auto at = static_cast<size_t>(t);
        const BankToken token = in.token(t, 0, out.data());
        bank->take_in(token);
        run_state(shape.rule, {.state = single.data(), .n_rows = 5, .row_step = 3, .n_columns = 3},
                  {.n = 1,
                   .q = token.q,
                   .k = token.k,
                   .v = token.v,
                   .decay = &in.g[at],
                   .write = in.beta.empty() ? nullptr : &in.beta[at],
                   .out = wanted.data()});
        ASSERT_LT(testing::max_difference(out, wanted), 1e-5) << t;
        std::vector<float> sum(shape.values());
        int64_t n = 0;
        for (const BankState& s : bank->states()) {
            for (size_t i = 0; i < sum.size(); ++i) sum[i] += s.values[i];
            n += s.n;
        }
        ASSERT_LT(testing::max_difference(sum, single), 1e-5) << t;
        ASSERT_EQ(n, t + 1);
        ASSERT_LE(std::ssize(bank->states()), o.n_states);
    }
}

class BankKinds : public ::testing::TestWithParam<std::tuple<StateRule, int64_t, float>> {};

TEST_P(BankKinds, WithWeightsOfOneAreTheSingleState) {
    const auto& [rule, n_states, threshold] = GetParam();
    const Inputs in = random_inputs(rule, 70, 3);
    for (const BankKind& kind : bank_kinds()) {
        SCOPED_TRACE(kind.name);
        BankOptions o;
        o.name = kind.name;
        o.n_states = n_states;
        o.threshold = threshold;
        o.block = 4;
        expect_single_state(in, o);
    }
}

/// Runs a bank over inputs; `looks_on`: keys of next tokens are known, but for every fifth; saved
/// and loaded again after `saved_after` tokens.
struct BankRun {
    std::vector<float> out, sums;
    std::vector<BankDecision> decisions;
    size_t bytes = 0;
};
BankRun run_bank(const Inputs& in, const BankOptions& o, bool are_weighed, bool looks_on,
                 int64_t saved_after = -1) {
    BankShape shape = in.shape();
    shape.are_weighed = are_weighed;
    auto bank = make_bank(shape, o);
    BankRun run;
    for (int64_t t = 0; t < in.n; ++t) {
        std::vector<float> out(3);
        BankToken token = in.token(t, 0, out.data());
        if (looks_on && t + 1 < in.n && t % 5 != 4) token.next_k = in.token(t + 1, 0, nullptr).k;
        if (t == saved_after) token.next_k = nullptr;
        bank->take_in(token);
        run.out.insert(run.out.end(), out.begin(), out.end());
        run.decisions.push_back(bank->decision());
        std::vector<float> sum(shape.values());
        for (const BankState& s : bank->states()) {
            for (size_t i = 0; i < s.values.size(); ++i) sum[i] += s.values[i];
        }
        run.sums.insert(run.sums.end(), sum.begin(), sum.end());
        if (t != saved_after) continue;
        std::stringstream kept;
        bank->save(kept);
        bank = make_bank(shape, o);
        bank->load(kept);
    }
    run.bytes = bank->bytes();
    return run;
}

TEST_P(BankKinds, ClosedStatesAsOneSumAnswerAlike) {
    const auto& [rule, n_states, threshold] = GetParam();
    const Inputs in = random_inputs(rule, 150, 6);
    for (const char* name : {"single", "dla", "equal", "random", "ward"}) {
        for (const auto closed :
             {ClosedStates::kTransition, ClosedStates::kDecay, ClosedStates::kNothing}) {
            SCOPED_TRACE(cat(name, " ", static_cast<int>(closed)));
            BankOptions o;
            o.name = name;
            o.n_states = n_states;
            o.threshold = threshold;
            o.block = 4;
            o.closed = closed;
            const BankRun apart = run_bank(in, o, true, false);
            const BankRun sums = run_bank(in, o, false, false);
            EXPECT_LT(testing::max_difference(apart.out, sums.out), 1e-4);
            EXPECT_LT(testing::max_difference(apart.sums, sums.sums), 1e-4);
            for (size_t t = 0; t < apart.decisions.size(); ++t) {
                ASSERT_EQ(apart.decisions[t].opens, sums.decisions[t].opens) << t;
                ASSERT_EQ(apart.decisions[t].merged, sums.decisions[t].merged) << t;
                ASSERT_NEAR(apart.decisions[t].score, sums.decisions[t].score, 1e-4) << t;
            }
            // However it came about, the same bits.
            EXPECT_EQ(run_bank(in, o, false, true).out, sums.out);
            EXPECT_EQ(run_bank(in, o, false, true, 77).out, sums.out);
            if (std::string_view(name) != "ward") {
                EXPECT_EQ(sums.bytes, 2 * in.shape().values() * sizeof(float));
            }
        }
    }
}

INSTANTIATE_TEST_SUITE_P(All, BankKinds,
                         ::testing::Combine(::testing::Values(StateRule::kScalarDecay,
                                                              StateRule::kGatedDelta),
                                            ::testing::Values(1, 2, 5, 20),
                                            ::testing::Values(-1.0F, 0.6F, 1.2F, HUGE_VALF)));

TEST(Banks, TheNewestTokenStandsAloneWhereEveryOneOpens) {
    const Inputs in = random_inputs(StateRule::kScalarDecay, 9, 4);
    BankOptions o;
    o.n_states = 4;
    o.threshold = 0;
    const auto bank = make_bank(in.shape(), o);
    for (int64_t t = 0; t < in.n; ++t) {
        std::vector<float> out(3);
        bank->take_in(in.token(t, 0, out.data()));
        EXPECT_EQ(bank->states().back().n, 1);
        EXPECT_EQ(std::ssize(bank->states()), std::min<int64_t>(t + 1, 4));
    }
}

TEST(Banks, TokensWithoutADirectionOpenNothing) {
    BankOptions o;
    o.threshold = 0;
    const auto bank = make_bank({.rule = StateRule::kScalarDecay, .n_rows = 2, .n_columns = 2}, o);
    const std::vector<float> one = {1, 1};
    const std::vector<float> zero = {0, 0};
    std::vector<float> out(2);
    bank->take_in({.q = one.data(), .k = one.data(), .v = one.data(), .out = out.data()});
    bank->take_in({.q = one.data(), .k = zero.data(), .v = one.data(), .out = out.data()});
    EXPECT_FALSE(bank->decision().opens);
    EXPECT_EQ(bank->decision().score, 0);
}

TEST(Banks, WhatCannotBeIsRefused) {
    const BankShape shape = {.rule = StateRule::kScalarDecay, .n_rows = 2, .n_columns = 2};
    const auto refused = [&](const std::function<void(BankOptions&)>& spoil) {
        BankOptions o;
        spoil(o);
        EXPECT_THROW(static_cast<void>(make_bank(shape, o)), Error);
    };
    refused([](auto& o) { o.name = "none"; });
    refused([](auto& o) { o.n_states = 0; });
    refused([](auto& o) { o.n_states = int64_t{1} << 40; });
    refused([](auto& o) { o.threshold = std::nanf(""); });
    refused([](auto& o) {
        o.name = "equal";
        o.block = 0;
    });
    refused([](auto& o) {
        o.name = "random";
        o.rate = 2;
    });
    refused([](auto& o) {
        o.name = "log-linear";
        o.n_states = 65;
    });
    EXPECT_THROW(static_cast<void>(closed_states_named("open")), Error);
}

}  // namespace
}  // namespace palimpsest
