#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <vector>

#include "model/model.h"

namespace palimpsest {

/// Turns queries and keys by their positions (RoPE), as the engine does.
class TorchRotation {
 public:
    TorchRotation() = default;
    /// Throws kUnsupported for rotations that are scaled.
    explicit TorchRotation(const ModelConfig& cfg);

    /// x [batch, n, heads, d_head], f32, of positions from 0.
    [[nodiscard]] torch::Tensor operator()(const torch::Tensor& x) const;

 private:
    int64_t n_rot_ = 0;
    double base_ = 0;
    std::vector<float> factors_;
    bool adjacent_ = false;
    mutable torch::Tensor cos_, sin_;  // [n, n_rot / 2]
};

}  // namespace palimpsest
