#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace palimpsest {

struct GateSize {
    int64_t n_embd = 0, n_mid = 0, n_head_kv = 0;
    float epsilon = 1e-5F;  // of both norms
};

/// One layer's tensors, or the gradients in them: of the sidecar's gate without its retention part.
struct GateTensors {
    std::span<float> norm_weight, norm_bias;          // [n_embd]
    std::span<float> in;                              // [n_mid][n_embd]
    std::span<float> mid_norm_weight, mid_norm_bias;  // [n_mid]
    std::span<float> magnitude;                       // [n_head_kv][n_mid]
    std::span<float> magnitude_bias;                  // [n_head_kv]
};

/// The network of the policy `gate`, forward and backward, for one layer: LN, W_in, LN, GELU,
/// magnitude (the successor of IndexMem; design in policy_gate.cpp). Holds what the way back needs
/// of the last way forward; one thread.
class GateNetwork {
 public:
    explicit GateNetwork(const GateSize& size) : size_(size) {}

    /// Scores [n][n_head_kv] of hidden states [n][n_embd]; valid until the next call.
    std::span<const float> forward(const GateTensors& of, std::span<const float> hidden);

    /// Adds to `to` the gradients of a loss whose gradient in the last scores is `by_scores`.
    void backward(const GateTensors& of, std::span<const float> by_scores, const GateTensors& to);

 private:
    void backward_out(const GateTensors& of, std::span<const float> by_scores,
                      const GateTensors& to);
    void backward_in(const GateTensors& of, const GateTensors& to);

    GateSize size_;
    int64_t n_ = 0;
    std::vector<float> x_;        // [n][n_embd]: hidden, normalised
    std::vector<float> folded_;   // [n_embd][n_mid]: W_in times the first norm's weight, transposed
    std::vector<float> z_;        // [n][n_mid]: of the middle, normalised
    std::vector<float> inverse_;  // [n]: what normalising it multiplied by
    std::vector<float> u_;        // [n][n_mid]: after GELU
    std::vector<float> scores_;   // [n][n_head_kv]
    std::vector<float> by_z_;     // [n][n_mid]: the gradient before the middle norm
    std::vector<float> by_in_;    // [n_mid][n_embd]
};

}  // namespace palimpsest
