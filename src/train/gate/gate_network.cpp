// The first norm's weight g and bias b are taken into the product that follows: with x the
// normalised hidden state, W (g x + b) = (W g) x + W b. So the way back needs one more product
// only, P = sum over tokens of dz x^T, from which the gradients in W, g and b all follow.

#include "train/gate/gate_network.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "train/product_kernel.h"

namespace palimpsest {

namespace {

// GELU by tanh, as ggml_gelu computes it.
constexpr float kGeluScale = 0.79788456F;  // sqrt(2 / pi)
constexpr float kGeluCube = 0.044715F;

float gelu_tanh(float x) { return std::tanh(kGeluScale * x * (1 + kGeluCube * x * x)); }

float gelu(float x) { return 0.5F * x * (1 + gelu_tanh(x)); }

float gelu_slope(float x) {
    const float t = gelu_tanh(x);
    return 0.5F * (1 + t) + 0.5F * x * (1 - t * t) * kGeluScale * (1 + 3 * kGeluCube * x * x);
}

/// Takes mean and variance out of a row; returns what it was multiplied by.
float normalise(const float* from, float* to, int64_t n, float epsilon) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += double{from[i]};
    const auto mean = static_cast<float>(sum / static_cast<double>(n));
    double squares = 0;
    for (int64_t i = 0; i < n; ++i) {
        to[i] = from[i] - mean;
        squares += double{to[i]} * double{to[i]};
    }
    const auto variance = static_cast<float>(squares / static_cast<double>(n));
    const float inverse = 1 / std::sqrt(variance + epsilon);
    for (int64_t i = 0; i < n; ++i) to[i] *= inverse;
    return inverse;
}

size_t place(int64_t i) { return static_cast<size_t>(i); }

}  // namespace

std::span<const float> GateNetwork::forward(const GateTensors& of, std::span<const float> hidden) {
    const auto [n_embd, n_mid, n_heads, epsilon] = size_;
    check(std::ssize(hidden) % n_embd == 0, "whole rows of hidden states");
    n_ = std::ssize(hidden) / n_embd;
    x_.resize(hidden.size());
    for (int64_t t = 0; t < n_; ++t) {
        normalise(hidden.data() + t * n_embd, x_.data() + t * n_embd, n_embd, epsilon);
    }
    folded_.resize(of.in.size());
    std::vector<float> offset(place(n_mid));
    for (int64_t m = 0; m < n_mid; ++m) {
        for (int64_t e = 0; e < n_embd; ++e) {
            const float w = of.in[place(m * n_embd + e)];
            folded_[place(e * n_mid + m)] = w * of.norm_weight[place(e)];
            offset[place(m)] += w * of.norm_bias[place(e)];
        }
    }
    z_.resize(place(n_ * n_mid));
    for (int64_t t = 0; t < n_; ++t) std::ranges::copy(offset, z_.begin() + t * n_mid);
    add_product({x_.data(), n_embd, 1}, folded_.data(), z_.data(), {n_, n_embd, n_mid});
    inverse_.resize(place(n_));
    u_.resize(z_.size());
    scores_.resize(place(n_ * n_heads));
    for (int64_t t = 0; t < n_; ++t) {
        float* z = z_.data() + t * n_mid;
        float* u = u_.data() + t * n_mid;
        inverse_[place(t)] = normalise(z, z, n_mid, epsilon);
        for (int64_t m = 0; m < n_mid; ++m) {
            u[m] = gelu(z[m] * of.mid_norm_weight[place(m)] + of.mid_norm_bias[place(m)]);
        }
        for (int64_t h = 0; h < n_heads; ++h) {
            float s = of.magnitude_bias[place(h)];
            for (int64_t m = 0; m < n_mid; ++m) s += of.magnitude[place(h * n_mid + m)] * u[m];
            scores_[place(t * n_heads + h)] = s;
        }
    }
    return scores_;
}

void GateNetwork::backward(const GateTensors& of, std::span<const float> by_scores,
                           const GateTensors& to) {
    check(by_scores.size() == scores_.size(), "a gradient for every score");
    backward_out(of, by_scores, to);
    backward_in(of, to);
}

/// From the scores to what the middle norm was given.
void GateNetwork::backward_out(const GateTensors& of, std::span<const float> by_scores,
                               const GateTensors& to) {
    const auto [n_embd, n_mid, n_heads, epsilon] = size_;
    by_z_.resize(z_.size());
    for (int64_t t = 0; t < n_; ++t) {
        const float* z = z_.data() + t * n_mid;
        const float* u = u_.data() + t * n_mid;
        float* by_z = by_z_.data() + t * n_mid;
        std::fill_n(by_z, n_mid, 0.0F);
        for (int64_t h = 0; h < n_heads; ++h) {
            const float by = by_scores[place(t * n_heads + h)];
            to.magnitude_bias[place(h)] += by;
            for (int64_t m = 0; m < n_mid; ++m) {
                to.magnitude[place(h * n_mid + m)] += by * u[m];
                by_z[m] += by * of.magnitude[place(h * n_mid + m)];
            }
        }
        float sum = 0;
        float product = 0;
        for (int64_t m = 0; m < n_mid; ++m) {
            const float weight = of.mid_norm_weight[place(m)];
            const float by = by_z[m] * gelu_slope(z[m] * weight + of.mid_norm_bias[place(m)]);
            to.mid_norm_weight[place(m)] += by * z[m];
            to.mid_norm_bias[place(m)] += by;
            by_z[m] = by * weight;
            sum += by_z[m];
            product += by_z[m] * z[m];
        }
        const auto mean = sum / static_cast<float>(n_mid);
        const auto along = product / static_cast<float>(n_mid);
        for (int64_t m = 0; m < n_mid; ++m) {
            by_z[m] = inverse_[place(t)] * (by_z[m] - mean - z[m] * along);
        }
    }
}

void GateNetwork::backward_in(const GateTensors& of, const GateTensors& to) {
    const auto [n_embd, n_mid, n_heads, epsilon] = size_;
    by_in_.assign(of.in.size(), 0.0F);
    add_product({by_z_.data(), 1, n_mid}, x_.data(), by_in_.data(), {n_mid, n_, n_embd});
    std::vector<float> sums(place(n_mid));
    for (int64_t t = 0; t < n_; ++t) {
        for (int64_t m = 0; m < n_mid; ++m) sums[place(m)] += by_z_[place(t * n_mid + m)];
    }
    for (int64_t m = 0; m < n_mid; ++m) {
        const float sum = sums[place(m)];
        for (int64_t e = 0; e < n_embd; ++e) {
            const size_t i = place(m * n_embd + e);
            to.in[i] += by_in_[i] * of.norm_weight[place(e)] + sum * of.norm_bias[place(e)];
            to.norm_weight[place(e)] += of.in[i] * by_in_[i];
            to.norm_bias[place(e)] += of.in[i] * sum;
        }
    }
}

}  // namespace palimpsest
