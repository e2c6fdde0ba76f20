#pragma once

#include <torch/torch.h>

#include <vector>

#include "memory/recurrent/state_bank.h"

namespace palimpsest {

/// What heads' banks are given. All f32; heads of one batch and sequence after another.
struct BankTensors {
    torch::Tensor q = {}, k = {};  // [batch, n, heads, n_rows]
    torch::Tensor v = {};          // [batch, n, heads, n_columns]
    torch::Tensor stays = {};      // [batch, n, heads], of a state, for each token
    torch::Tensor write = {};      // [batch, n, heads]; undefined: 1
    torch::Tensor weights = {};    // [batch, n, heads, n_states]; undefined: 1
    torch::Tensor opens = {};      // [batch, n] bool: who opens a state; undefined: banks decide
};

/// What banks decided, added up over heads and sequences.
struct BankTally {
    int64_t n_tokens = 0, n_opened = 0;
    std::vector<float> scores = {};  // of all tokens but first ones, if asked for
    bool keeps_scores = false;
};

/// Every head's bank over every sequence, from its beginning: [batch, n, heads, n_columns], with
/// gradients to all inputs; boundaries and merges are constants. On LibTorch's threads. Throws as
/// make_bank() does.
[[nodiscard]] torch::Tensor read_banks(StateRule rule, const BankOptions& options,
                                       const BankTensors& in, BankTally* tally = nullptr);

}  // namespace palimpsest
