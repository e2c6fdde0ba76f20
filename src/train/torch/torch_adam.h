#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <vector>

namespace palimpsest {

/// Adam (Kingma and Ba, 2014, arXiv:1412.6980; betas 0.9 and 0.95) of gradients clipped to norm 1,
/// with the weights' decay apart from it (Loshchilov and Hutter, 2017, arXiv:1711.05101).
class TorchAdam {
 public:
    /// How one tensor is learnt: its rate, of the step's; 0: it stays. And what it loses a step,
    /// of itself and of its rate.
    struct Pace {
        double rate = 1, decay = 0;
    };

    TorchAdam() = default;
    /// Handles: what they hold is changed.
    explicit TorchAdam(std::vector<torch::Tensor> parameters);

    /// The n-th step, from 1, with the gradients that are there, which are gone after it. `paces`:
    /// of each. Returns the gradients' norm before it was clipped.
    double step(double rate, const std::vector<Pace>& paces, int64_t n);
    void clear_gradients() const;

    /// Parameters, then both moments.
    [[nodiscard]] std::vector<torch::Tensor> state() const;
    /// Throws kCorrupt for what state() cannot have returned.
    void restore(const std::vector<torch::Tensor>& state);

 private:
    std::vector<torch::Tensor> parameters_, first_, second_;
};

}  // namespace palimpsest
