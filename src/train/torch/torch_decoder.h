#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/gguf.h"
#include "core/gguf_writer.h"
#include "model/model.h"
#include "train/torch/torch_rotation.h"

namespace palimpsest {

/// How numbers are computed with; parameters and their moments are f32 either way.
enum class TorchMath { kF32, kBf16 };

/// A matrix, learnt as a whole, by two thin ones added to it (Hu et al., 2021, arXiv:2106.09685),
/// or not at all.
class TorchLinear {
 public:
    TorchLinear() = default;
    explicit TorchLinear(torch::Tensor weight) : weight_(std::move(weight)) {}

    /// What is learnt of it from now on: all, if the rank is 0, or as many thin rows and columns,
    /// which change nothing until they are learnt.
    void learn(int64_t rank);
    /// Does what is learnt get gradients?
    void activate(bool is_active);

    [[nodiscard]] torch::Tensor operator()(const torch::Tensor& x, TorchMath math) const;
    /// What is learnt, if anything, active or not.
    [[nodiscard]] std::vector<torch::Tensor> parameters() const;
    /// The matrix as it is now, [out, in] f32.
    [[nodiscard]] torch::Tensor merged() const;
    /// What thin ones add, [rank, in] and [rank, out]: W + up^T down. Undefined if it has none.
    struct Thin {
        torch::Tensor down, up;
    };
    [[nodiscard]] Thin thin() const;
    /// Goes on from them. They have the shapes of its own.
    void start_from(const Thin& thin);

 private:
    torch::Tensor weight_;  // [out, in] f32
    bool is_learnt_ = false;
    torch::Tensor down_, up_;
    mutable torch::Tensor frozen_;  // bf16, of a weight that is not learnt
};

/// The plain decoder (family_pre_norm.cpp) with gradients: its numbers come from a GGUF file and go
/// into one. Sequences of a batch are equally long and see what is before them.
class TorchDecoder {
 public:
    /// The first `n_layer` layers of a model; 0: all. Throws kUnsupported for families and
    /// rotations that it has not, and as reading the file does.
    TorchDecoder(const GgufFile& file, int64_t n_layer, TorchMath math);

    [[nodiscard]] const ModelConfig& config() const { return cfg_; }
    /// [.., n] ids to [.., n, n_embd].
    [[nodiscard]] torch::Tensor embed(const torch::Tensor& ids) const;
    /// [batch, n, n_embd] to states after the last norm, f32.
    [[nodiscard]] torch::Tensor states(torch::Tensor x, bool is_causal = true) const;
    /// [rows, n_embd] to [rows, n_vocab] f32.
    [[nodiscard]] torch::Tensor logits(const torch::Tensor& states) const;

    /// rank 0: all matrices and norms; else thin additions to all matrices. The token table stays.
    void learn(int64_t rank);
    void activate(bool is_active);
    [[nodiscard]] std::vector<torch::Tensor> parameters() const;

    /// Thin additions, as merge_additions() reads them, named after `part`.
    void write_thin(GgufWriter& to, const std::string& part) const;
    /// Throws kInvalidArgument for others than learn() made.
    void start_from_thin(const GgufFile& from, const std::string& part);

    /// Keys of `file` and the tensors as they are now, matrices in `type`, into a GGUF file.
    void write(const GgufFile& file, const std::string& name, ggml_type type,
               const std::string& path) const;

 private:
    struct Block {
        torch::Tensor attn_norm, ffn_norm, q_norm, k_norm;
        TorchLinear q, k, v, o, gate, up, down;
    };
    [[nodiscard]] torch::Tensor norm(const torch::Tensor& x, const torch::Tensor& weight) const;
    [[nodiscard]] torch::Tensor attend(const Block& b, const torch::Tensor& x,
                                       bool is_causal) const;
    struct NamedMatrix {
        std::string name;  // "blk.0.attn_q"
        TorchLinear* matrix;
    };
    [[nodiscard]] std::vector<NamedMatrix> matrices() const;

    ModelConfig cfg_;
    TorchMath math_;
    bool norms_heads_ = false;
    torch::Tensor table_, norm_, head_;  // [n_vocab, n_embd], [n_embd]; head_ as table_ if tied
    mutable torch::Tensor table_bf16_;
    std::vector<Block> blocks_;
    bool learns_norms_ = false;
    TorchRotation rotate_;
};

/// A tensor of a GGUF file as f32, in torch's order of dimensions.
[[nodiscard]] torch::Tensor read_tensor(const GgufFile& file, const std::string& name);
/// Adds it to a GGUF file; matrices in `type` (f32, f16 or q8_0), vectors in f32.
void add_tensor(GgufWriter& to, const std::string& name, const torch::Tensor& t, ggml_type type);

}  // namespace palimpsest
