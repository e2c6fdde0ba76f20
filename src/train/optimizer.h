#pragma once

#include <cstdint>
#include <vector>

#include "train/parameters.h"

namespace palimpsest {

/// Learning rates: a straight rise, a stable part, a straight fall (warm-up, stable, decay).
struct Schedule {
    double rate = 1e-3;
    double last_share = 0.005;  // of `rate`, at the last step
    int64_t n_steps = 0, n_warm_up = 0, n_decay = 0;

    /// Of step 0 to n_steps - 1.
    [[nodiscard]] double at(int64_t step) const;
};

/// By default as IndexMem's successor is trained.
struct AdamRule {
    double first = 0.9, second = 0.95;  // how much of a moment stays
    float epsilon = 1e-8F;
    double most_norm = 1.0;  // the gradient's length is held to it
};

/// AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101) without weight decay.
class Optimizer {
 public:
    explicit Optimizer(const Parameters& of, const AdamRule& rule = {});

    /// One step down the gradients. Returns their length before it was held. Throws
    /// kInvalidArgument, with nothing changed, if that is no number.
    double step(Parameters& to, double rate);

    // For checkpoints: steps done, and both moments of every parameter, in their order.
    int64_t n_done = 0;
    std::vector<std::vector<float>> first, second;

 private:
    AdamRule rule_;
};

}  // namespace palimpsest
