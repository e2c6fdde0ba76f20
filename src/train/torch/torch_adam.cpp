#include "train/torch/torch_adam.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace palimpsest {

namespace {

constexpr double kClip = 1.0;
constexpr double kBeta1 = 0.9, kBeta2 = 0.95, kEpsilon = 1e-8;

}  // namespace

TorchAdam::TorchAdam(std::vector<torch::Tensor> parameters) : parameters_(std::move(parameters)) {
    for (const torch::Tensor& t : parameters_) {
        first_.push_back(torch::zeros_like(t));
        second_.push_back(torch::zeros_like(t));
    }
}

double TorchAdam::step(double rate, const std::vector<Pace>& paces, int64_t n) {
    check(paces.size() == parameters_.size(), "every parameter has its pace");
    const torch::NoGradGuard no_grad;
    double squares = 0;
    for (const torch::Tensor& t : parameters_) {
        if (t.grad().defined()) squares += t.grad().pow(2).sum().item<double>();
    }
    const double norm = std::sqrt(squares);
    const double clip = std::min(1.0, kClip / (norm + 1e-6));
    const double fair1 = 1 - std::pow(kBeta1, static_cast<double>(n));
    const double fair2 = 1 - std::pow(kBeta2, static_cast<double>(n));
    for (size_t i = 0; i < parameters_.size(); ++i) {
        torch::Tensor t = parameters_[i];
        const Pace& pace = paces[i];
        if (!t.grad().defined() || pace.rate == 0) continue;
        const torch::Tensor g = t.grad() * clip;
        first_[i].mul_(kBeta1).add_(g, 1 - kBeta1);
        second_[i].mul_(kBeta2).addcmul_(g, g, 1 - kBeta2);
        const torch::Tensor size = (second_[i] / fair2).sqrt_().add_(kEpsilon);
        if (pace.decay > 0) t.mul_(1 - rate * pace.rate * pace.decay);
        t.addcdiv_(first_[i], size, -rate * pace.rate / fair1);
    }
    clear_gradients();
    return norm;
}

void TorchAdam::clear_gradients() const {
    for (torch::Tensor t : parameters_) t.mutable_grad() = torch::Tensor();
}

std::vector<torch::Tensor> TorchAdam::state() const {
    std::vector<torch::Tensor> all = parameters_;
    all.insert(all.end(), first_.begin(), first_.end());
    all.insert(all.end(), second_.begin(), second_.end());
    return all;
}

void TorchAdam::restore(const std::vector<torch::Tensor>& state) {
    const size_t n = parameters_.size();
    bool fits = state.size() == 3 * n;
    for (size_t i = 0; fits && i < 3 * n; ++i) {
        fits = state[i].sizes() == parameters_[i % n].sizes();
    }
    if (!fits) throw Error(ErrorCode::kCorrupt, "the checkpoint has other parameters");
    const torch::NoGradGuard no_grad;
    for (size_t i = 0; i < n; ++i) {
        torch::Tensor t = parameters_[i];
        t.copy_(state[i]);
        first_[i].copy_(state[n + i]);
        second_[i].copy_(state[2 * n + i]);
    }
}

}  // namespace palimpsest
