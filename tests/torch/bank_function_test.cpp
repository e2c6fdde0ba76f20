// Banks of states inside LibTorch: with one state, what LibTorch itself makes of the recurrence,
// there and back; heads and sequences do not mix.

#include "train/torch/bank_function.h"

#include <gtest/gtest.h>

namespace palimpsest {
namespace {

BankTensors random_inputs(bool has_weights, int64_t n_states) {
    torch::manual_seed(4);
    const auto leaf = [](const torch::Tensor& t) { return t.detach().requires_grad_(true); };
    const torch::Tensor k = torch::randn({2, 40, 3, 5});
    BankTensors in = {.q = leaf(torch::randn({2, 40, 3, 5})),
                      .k = leaf(k / k.norm(2, -1, true)),
                      .v = leaf(torch::randn({2, 40, 3, 7})),
                      .stays = leaf(torch::rand({2, 40, 3}) * 0.3 + 0.7),
                      .write = leaf(torch::rand({2, 40, 3}))};
    if (has_weights) in.weights = leaf(torch::rand({2, 40, 3, n_states}) + 0.5);
    return in;
}

/// S <- a S; S <- S + w k (v - S^T k)^T, or S <- a S + w k v^T; o = weight S^T q.
torch::Tensor by_torch(StateRule rule, const BankTensors& in) {
    torch::Tensor state = torch::zeros({2, 3, 5, 7});
    std::vector<torch::Tensor> out;
    for (int64_t t = 0; t < in.k.size(1); ++t) {
        const auto at = [t](const torch::Tensor& x) { return x.select(1, t); };
        const torch::Tensor k = at(in.k).unsqueeze(-1);
        state = state * at(in.stays).unsqueeze(-1).unsqueeze(-1);
        torch::Tensor v = at(in.v).unsqueeze(-2);
        if (rule == StateRule::kGatedDelta) v = v - (state * k).sum(-2, true);
        state = state + at(in.write).unsqueeze(-1).unsqueeze(-1) * k * v;
        torch::Tensor o = (state * at(in.q).unsqueeze(-1)).sum(-2);
        if (in.weights.defined()) o = o * at(in.weights);
        out.push_back(o);
    }
    return torch::stack(out, 1);
}

TEST(BankFunction, OneStateIsTheRecurrenceThereAndBack) {
    for (const StateRule rule : {StateRule::kScalarDecay, StateRule::kGatedDelta}) {
        for (const bool has_weights : {false, true}) {
            SCOPED_TRACE(std::string(to_string(rule)) + (has_weights ? ", weights" : ""));
            const BankTensors ours = random_inputs(has_weights, 1);
            const BankTensors theirs = random_inputs(has_weights, 1);
            const torch::Tensor direction = torch::randn({2, 40, 3, 7});
            BankTally tally;
            const torch::Tensor a = read_banks(rule, {.name = "dla", .n_states = 1}, ours, &tally);
            const torch::Tensor b = by_torch(rule, theirs);
            EXPECT_LT((a - b).abs().max().item<double>(), 1e-4);
            EXPECT_EQ(tally.n_tokens, 2 * 40 * 3);
            (a * direction).sum().backward();
            (b * direction).sum().backward();
            const auto expect_near = [](const torch::Tensor& x, const torch::Tensor& y,
                                        const char* name) {
                SCOPED_TRACE(name);
                EXPECT_LT((x.grad() - y.grad()).abs().max().item<double>(),
                          1e-3 * y.grad().abs().max().item<double>());
            };
            expect_near(ours.q, theirs.q, "q");
            expect_near(ours.k, theirs.k, "k");
            expect_near(ours.v, theirs.v, "v");
            expect_near(ours.stays, theirs.stays, "stays");
            expect_near(ours.write, theirs.write, "write");
            if (has_weights) expect_near(ours.weights, theirs.weights, "weights");
        }
    }
}

TEST(BankFunction, WithWeightsOfOneABankIsOneState) {
    for (const char* name : {"dla", "ward", "equal", "random", "log-linear"}) {
        SCOPED_TRACE(name);
        const BankTensors in = random_inputs(false, 5);
        const torch::Tensor a =
            read_banks(StateRule::kGatedDelta,
                       {.name = name, .n_states = 5, .threshold = 1.2F, .block = 7}, in);
        EXPECT_LT((a - by_torch(StateRule::kGatedDelta, in)).abs().max().item<double>(), 1e-4);
    }
}

}  // namespace
}  // namespace palimpsest
