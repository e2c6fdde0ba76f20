#pragma once

#include <torch/torch.h>

#include <memory>
#include <string>
#include <vector>

#include "core/gguf.h"
#include "core/gguf_writer.h"
#include "train/linear/linear_model.h"
#include "train/torch/bank_function.h"
#include "train/torch/torch_adam.h"
#include "train/torch/torch_rotation.h"

namespace palimpsest {

/// A decoder with recurrent mixers, with gradients: from nothing, or from a GGUF file, and into
/// one that the engine runs. All f32.
class TorchRecurrent {
 public:
    /// Numbers by torch's generator. Throws kInvalidArgument for a shape that cannot be.
    TorchRecurrent(const LinearShape& shape, const LinearMixing& mixing);
    /// Of Mamba-2, or Gated DeltaNet with attention between (qwen35, dense). Throws kUnsupported
    /// for other families, and as reading does.
    TorchRecurrent(const GgufFile& file, const LinearMixing& mixing);

    [[nodiscard]] const LinearShape& shape() const { return shape_; }

    /// [batch, n] ids to [batch, n, n_embd], after the last norm. `opens`: [batch, n] bool, or
    /// undefined. `tallies`: of every layer; nullptr: not asked for.
    [[nodiscard]] torch::Tensor states(const torch::Tensor& ids, const torch::Tensor& opens,
                                       std::vector<BankTally>* tallies = nullptr) const;
    /// [rows, n_embd] to [rows, n_vocab].
    [[nodiscard]] torch::Tensor logits(const torch::Tensor& states) const;

    /// All, or only what weighs states.
    void learn(bool only_weights);
    [[nodiscard]] std::vector<torch::Tensor> parameters() const;
    /// In the same order.
    [[nodiscard]] std::vector<TorchAdam::Pace> paces(double decay) const;

    [[nodiscard]] float threshold(int64_t layer) const;
    void set_threshold(int64_t layer, float threshold);
    /// f32, of one sequence; of the window where there is one.
    [[nodiscard]] int64_t state_bytes() const;

    /// Keys, but those of a vocabulary, and tensors; of a model that was read from a file, tensors
    /// alone. Throws kUnsupported where there is a window.
    void write(GgufWriter& to, ggml_type type) const;
    /// What weighs states, and thresholds, as BankReadOut reads them.
    void write_read_out(GgufWriter& to) const;

 private:
    /// A layer's; those that its base has not are undefined.
    struct Block {
        torch::Tensor norm, ffn_norm, ffn_gate, ffn_up, ffn_down;
        torch::Tensor in;                       // Mamba-2: gates, channels and steps
        torch::Tensor qkv, gate, write, decay;  // Gated DeltaNet
        // Attention whose output is gated, instead: q and gates, head by head; k, v and norms.
        torch::Tensor attn_q, attn_k, attn_v, q_norm, k_norm;
        torch::Tensor conv, conv_bias;       // [n_channels, n_taps]
        torch::Tensor dt_bias, a_log, skip;  // [n_head]
        torch::Tensor inner_norm, out;
        torch::Tensor weigh, weigh_scale;  // of states: [n_head n_states, n_embd],
                                           // [n_head, n_states]
        float threshold = 0;
    };
    struct Named {
        std::string name;
        torch::Tensor tensor;
        bool decays = false;  // as matrices do
        bool weighs = false;  // states
    };
    void check_shape() const;
    [[nodiscard]] Block read_block(const GgufFile& file, int64_t i) const;
    void write_keys(GgufWriter& to) const;
    void add_weights();
    [[nodiscard]] std::vector<Named> named() const;
    [[nodiscard]] torch::Tensor norm(const torch::Tensor& x, const torch::Tensor& weight) const;
    [[nodiscard]] torch::Tensor convolve(const Block& b, const torch::Tensor& x) const;
    struct Given {
        torch::Tensor opens;
        BankTally* tally = nullptr;
    };
    [[nodiscard]] torch::Tensor read(const Block& b, const torch::Tensor& x, BankTensors in,
                                     const Given& given) const;
    [[nodiscard]] torch::Tensor delta_net(const Block& b, const torch::Tensor& x,
                                          const Given& given) const;
    [[nodiscard]] torch::Tensor mamba2(const Block& b, const torch::Tensor& x,
                                       const Given& given) const;
    [[nodiscard]] torch::Tensor attend(const Block& b, const torch::Tensor& x) const;
    [[nodiscard]] torch::Tensor look_back(const BankTensors& in) const;

    LinearShape shape_;
    LinearMixing mixing_;
    StateRule rule_ = StateRule::kGatedDelta;
    float eps_ = 1e-6F;
    torch::Tensor table_, norm_, head_;  // head_ as table_ if tied
    std::vector<Block> blocks_;
    // Of layers that attend.
    int64_t n_head_ = 0, n_head_kv_ = 0, d_head_ = 0;
    TorchRotation rotate_;
    bool is_read_ = false;  // from a file, whose keys are copied
    bool only_weights_ = false;
};

}  // namespace palimpsest
