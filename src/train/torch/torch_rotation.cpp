#include "train/torch/torch_rotation.h"

#include "core/error.h"

namespace palimpsest {

TorchRotation::TorchRotation(const ModelConfig& cfg)
    : n_rot_(cfg.n_rot),
      base_(static_cast<double>(cfg.rope_base)),
      factors_(cfg.rope_factors.begin(), cfg.rope_factors.end()),
      adjacent_(cfg.rope_adjacent) {
    if (cfg.rope_scaling.type == "none") return;
    throw Error(ErrorCode::kUnsupported,
                cat("rotations scaled by '", cfg.rope_scaling.type, "' cannot be trained"));
}

torch::Tensor TorchRotation::operator()(const torch::Tensor& x) const {
    const int64_t n = x.size(1);
    const int64_t half = n_rot_ / 2;
    if (!cos_.defined() || cos_.size(0) < n) {
        const torch::NoGradGuard no_grad;
        const torch::Tensor i = torch::arange(half, torch::kFloat);
        torch::Tensor freq = torch::pow(base_, -2.0 * i / static_cast<double>(n_rot_));
        if (!factors_.empty()) freq = freq / torch::tensor(factors_);
        const torch::Tensor angles = torch::outer(torch::arange(n, torch::kFloat), freq);
        cos_ = angles.cos();
        sin_ = angles.sin();
    }
    const torch::Tensor c = cos_.slice(0, 0, n).view({1, n, 1, half});
    const torch::Tensor s = sin_.slice(0, 0, n).view({1, n, 1, half});
    const torch::Tensor turned = x.slice(-1, 0, n_rot_);
    torch::Tensor a;
    torch::Tensor b;
    if (adjacent_) {
        const torch::Tensor pairs = turned.unflatten(-1, {half, 2});
        a = pairs.select(-1, 0);
        b = pairs.select(-1, 1);
    } else {
        a = turned.slice(-1, 0, half);
        b = turned.slice(-1, half);
    }
    const torch::Tensor first = a * c - b * s;
    const torch::Tensor second = a * s + b * c;
    torch::Tensor out =
        adjacent_ ? torch::stack({first, second}, -1).flatten(-2) : torch::cat({first, second}, -1);
    if (n_rot_ < x.size(-1)) out = torch::cat({out, x.slice(-1, n_rot_)}, -1);
    return out;
}

}  // namespace palimpsest
