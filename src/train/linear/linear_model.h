#pragma once

#include <cstdint>
#include <string>

#include "memory/recurrent/state_bank.h"

namespace palimpsest {

/// A small decoder whose mixers are all recurrent: x + mixer(norm(x)), then x + swiglu(norm(x)),
/// which Mamba-2 has not.
struct LinearShape {
    std::string base = "gated-delta";  // or "mamba2"
    int64_t n_vocab = 0;               // as the task has it
    int64_t n_layer = 2, n_embd = 64, n_head = 2, d_key = 16, d_value = 16;
    int64_t n_key_head = 0;     // 0: as many as heads
    int64_t n_ff = 128;         // Mamba-2: 0
    int64_t n_taps = 4;         // of the short convolution
    double fastest_decay = 16;  // A begins between 0 and this
};

/// What a head reads: its bank of states, or the last positions themselves.
struct LinearMixing {
    BankOptions bank = {.name = "single", .n_states = 1};
    bool learns_weights = false;  // of states, told by the token; else each counts 1
    /// > 0: every layer's threshold is set, in the first third of a training, so that this share
    /// of tokens opens a state.
    double boundary_rate = 0;
    bool is_told = false;  // boundaries are those of the task
    int64_t window = 0;    // > 0: softmax over so many last positions, instead of states
};

}  // namespace palimpsest
