#pragma once

#include <cstdint>
#include <vector>

#include "memory/recurrent/state_bank.h"

namespace palimpsest {

// A head's bank of states over a whole sequence, and the way back ("Dynamic Linear Attention",
// arXiv:2606.10650). Boundaries and merges are decided by the bank that the engine runs, and are
// constants on the way back: what is learnt is what goes into states and how they are read.

/// What one token did to the order of states.
struct BankStep {
    int32_t n_before = 0, n_after = 0;  // places of states; levels may be empty
    std::vector<int32_t> to = {};       // for every place before, where its state went; -1: empty
    std::vector<int32_t> weight = {};   // for every place after, its read-out weight; -1: empty
    int32_t open = 0;                   // the place, after, that the token was written into
    bool is_new = false;                // and nothing was there before
    float score = 0;                    // how far the token was from the open state
};

/// A head's inputs; values of consecutive tokens are `step` of theirs apart.
template <typename Real>
struct ScanInputs {
    int64_t n = 0;  // tokens
    const Real *q = nullptr, *k = nullptr, *v = nullptr;
    int64_t key_step = 0, value_step = 0;
    const Real *stays = nullptr, *write = nullptr;  // the decay itself, not its logarithm
    int64_t head_step = 0;
    const Real* weights = nullptr;  // [n][n_states]; nullptr: 1
    int64_t weights_step = 0;
    const bool* opens = nullptr;  // [n], where tokens open states; nullptr: the bank decides
};

/// What is added to, laid out as the inputs. `weights` may be nullptr.
template <typename Real>
struct ScanGradients {
    Real *q = nullptr, *k = nullptr, *v = nullptr, *stays = nullptr, *write = nullptr,
         *weights = nullptr;
};

/// Runs the bank over a sequence from its beginning, and says what it decided. `out`: [n], rows
/// out_step apart. Throws as make_bank() does.
std::vector<BankStep> run_bank(const BankShape& shape, const BankOptions& options,
                               const ScanInputs<float>& in, float* out, int64_t out_step);

/// The same outputs from what was decided, in either precision.
template <typename Real>
void replay_bank(const BankShape& shape, const BankOptions& options,
                 const std::vector<BankStep>& steps, const ScanInputs<Real>& in, Real* out,
                 int64_t out_step);

/// Gradients of what was decided; d_out as `out`. States are kept every so many tokens and made
/// anew between.
template <typename Real>
void bank_gradients(const BankShape& shape, const BankOptions& options,
                    const std::vector<BankStep>& steps, const ScanInputs<Real>& in,
                    const Real* d_out, int64_t out_step, const ScanGradients<Real>& gradients);

}  // namespace palimpsest
