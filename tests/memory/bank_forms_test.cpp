// The same banks in another form, all tokens at once, and over a million tokens.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/random.h"
#include "memory/recurrent/state_bank.h"

namespace palimpsest {
namespace {

constexpr int64_t kRows = 6, kColumns = 5;

using Matrix = std::vector<std::vector<double>>;  // [n][n]

/// Tokens of a head, in double; keys are of unit length.
struct Head {
    int64_t n = 0, n_states = 0;
    Matrix q, k, v, weights;
    std::vector<double> decay, write;  // decay: the logarithm

    Head(int64_t n_tokens, int64_t states, uint64_t seed) : n(n_tokens), n_states(states) {
        Random random(seed);
        const auto row = [&](int64_t width, double least) {
            std::vector<double> values;
            for (int64_t i = 0; i < width; ++i) {
                values.push_back(
                    static_cast<double>(static_cast<float>(least + (1 - least) * random.unit())));
            }
            return values;
        };
        for (int64_t t = 0; t < n; ++t) {
            q.push_back(row(kRows, -1));
            k.push_back(row(kRows, -1));
            std::vector<double>& key = k.back();
            const double size =
                std::sqrt(std::inner_product(key.begin(), key.end(), key.begin(), 0.0));
            for (double& x : key) x = static_cast<double>(static_cast<float>(x / size));
            v.push_back(row(kColumns, -1));
            weights.push_back(row(n_states, 0.2));
            decay.push_back(-0.3 * random.unit());
            write.push_back(random.unit());
        }
    }
};

double dot_of(const std::vector<double>& a, const std::vector<double>& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

/// Which state a token's contribution is in, by age, after token t: ranks[t][s].
struct Ran {
    Matrix out;
    std::vector<std::vector<size_t>> ranks;
};

Ran run_token_by_token(const Head& head, StateRule rule, const BankOptions& options) {
    const auto bank = make_bank({.rule = rule, .n_rows = kRows, .n_columns = kColumns}, options);
    const auto floats = [](const std::vector<double>& x) {
        return std::vector<float>(x.begin(), x.end());
    };
    Ran ran;
    std::vector<std::vector<int64_t>> states;  // tokens of each, oldest first
    for (int64_t t = 0; t < head.n; ++t) {
        const auto i = static_cast<size_t>(t);
        const auto q = floats(head.q[i]);
        const auto k = floats(head.k[i]);
        const auto v = floats(head.v[i]);
        const auto weights = floats(head.weights[i]);
        std::vector<float> out(kColumns);
        bank->take_in({.q = q.data(),
                       .k = k.data(),
                       .v = v.data(),
                       .stays = static_cast<float>(std::exp(head.decay[i])),
                       .write = static_cast<float>(head.write[i]),
                       .weights = weights.data(),
                       .out = out.data()});
        ran.out.emplace_back(out.begin(), out.end());
        const BankDecision& d = bank->decision();
        if (d.merged >= 0) {
            auto& into = states[static_cast<size_t>(d.merged)];
            const auto gone = states.begin() + d.merged + 1;
            into.insert(into.end(), gone->begin(), gone->end());
            states.erase(gone);
        }
        if (states.empty() || (d.opens && options.n_states > 1)) states.emplace_back();
        states.back().push_back(t);
        std::vector<size_t> ranks(i + 1);
        for (size_t s = 0; s < states.size(); ++s) {
            for (const int64_t token : states[s]) {
                ranks[static_cast<size_t>(token)] = states.size() - 1 - s;
            }
        }
        ran.ranks.push_back(std::move(ranks));
    }
    return ran;
}

/// tril(Q K^T), and for the delta rule that times (I + tril(diag(w) K K^T, -1))^-1.
Matrix products(const Head& head, StateRule rule) {
    const auto n = static_cast<size_t>(head.n);
    Matrix a(n, std::vector<double>(n));
    for (size_t t = 0; t < n; ++t) {
        for (size_t s = 0; s <= t; ++s) a[t][s] = dot_of(head.q[t], head.k[s]);
    }
    if (rule == StateRule::kScalarDecay) return a;
    Matrix inverse(n, std::vector<double>(n));
    for (size_t t = 0; t < n; ++t) {
        inverse[t][t] = 1;
        for (size_t s = 0; s < t; ++s) {
            for (size_t j = s; j < t; ++j) {
                inverse[t][s] -= head.write[t] * dot_of(head.k[t], head.k[j]) * inverse[j][s];
            }
        }
    }
    Matrix both(n, std::vector<double>(n));
    for (size_t t = 0; t < n; ++t) {
        for (size_t s = 0; s <= t; ++s) {
            for (size_t j = s; j <= t; ++j) both[t][s] += a[t][j] * inverse[j][s];
        }
    }
    return both;
}

class BankForms : public ::testing::TestWithParam<std::tuple<StateRule, const char*, int64_t>> {};

/// ((Q K^T) D Lambda) V, element by element, with what the bank decided.
TEST_P(BankForms, AllTokensAtOnceAreTheSame) {
    const auto& [rule, name, n_states] = GetParam();
    const Head head(45, n_states, 11);
    BankOptions options = {.name = name, .n_states = n_states, .threshold = 1.1F};
    options.block = 4;
    options.rate = 0.3;
    const Ran ran = run_token_by_token(head, rule, options);
    const Matrix a = products(head, rule);
    double gone = 0;
    std::vector<double> sums;  // of decays, up to a token
    for (const double d : head.decay) sums.push_back(gone += d);
    size_t n_ranks = 0;
    for (size_t t = 0; t < ran.out.size(); ++t) {
        std::vector<double> out(kColumns);
        for (size_t s = 0; s <= t; ++s) {
            const size_t rank = ran.ranks[t][s];
            n_ranks = std::max(n_ranks, rank + 1);
            const double share = a[t][s] * std::exp(sums[t] - sums[s]) * head.weights[t][rank];
            for (size_t c = 0; c < out.size(); ++c) out[c] += share * head.write[s] * head.v[s][c];
        }
        for (size_t c = 0; c < out.size(); ++c) {
            ASSERT_NEAR(out[c], ran.out[t][c], 1e-5) << t << " " << c;
        }
    }
    EXPECT_EQ(n_ranks, static_cast<size_t>(n_states));
}

INSTANTIATE_TEST_SUITE_P(All, BankForms,
                         ::testing::Combine(::testing::Values(StateRule::kScalarDecay,
                                                              StateRule::kGatedDelta),
                                            ::testing::Values("dla", "equal", "random", "ward"),
                                            ::testing::Values(1, 2, 5)));

/// The norm that scores are told from is carried along; it must not leave the state's own.
TEST(BankForms, AMillionTokensLater) {
    for (const StateRule rule : {StateRule::kScalarDecay, StateRule::kGatedDelta}) {
        for (const bool are_weighed : {true, false}) {
            const Head head(1000, 3, 5);
            BankOptions options = {.name = "dla", .n_states = 3, .threshold = 1.3F};
            const auto bank = make_bank(
                {.rule = rule, .n_rows = kRows, .n_columns = kColumns, .are_weighed = are_weighed},
                options);
            std::vector<std::vector<float>> q;
            std::vector<std::vector<float>> k;
            std::vector<std::vector<float>> v;
            for (size_t i = 0; i < 1000; ++i) {
                q.emplace_back(head.q[i].begin(), head.q[i].end());
                k.emplace_back(head.k[i].begin(), head.k[i].end());
                v.emplace_back(head.v[i].begin(), head.v[i].end());
            }
            std::vector<float> out(kColumns);
            constexpr int64_t kTokens = 1000000;
            std::vector<float> open;  // as it was before the last token
            for (int64_t t = 0; t < kTokens; ++t) {
                if (t + 1 == kTokens) {
                    const auto values = bank->states().back().values;
                    open.assign(values.begin(), values.end());
                }
                const auto i = static_cast<size_t>(t * 7 % 1000);
                bank->take_in({.q = q[i].data(),
                               .k = k[i].data(),
                               .v = v[i].data(),
                               .stays = static_cast<float>(std::exp(head.decay[i])),
                               .write = static_cast<float>(head.write[i]),
                               .out = out.data()});
            }
            const auto last = static_cast<size_t>((kTokens - 1) * 7 % 1000);
            double along = 0;
            double state = 0;
            double token = 0;
            for (size_t r = 0; r < kRows; ++r) {
                for (size_t c = 0; c < kColumns; ++c) {
                    const auto s = static_cast<double>(open[r * kColumns + c]);
                    const double x = head.k[last][r] * head.v[last][c];
                    along += s * x;
                    state += s * s;
                    token += x * x;
                }
            }
            const double score = std::sqrt(std::max(0.0, 2 - 2 * along / std::sqrt(state * token)));
            EXPECT_NEAR(bank->decision().score, score, 1e-4);
            int64_t n = 0;
            for (const BankState& s : bank->states()) {
                n += s.n;
                EXPECT_TRUE(std::isfinite(s.information));
            }
            EXPECT_EQ(n, kTokens);
        }
    }
}

}  // namespace
}  // namespace palimpsest
