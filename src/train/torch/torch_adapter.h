#pragma once

#include <torch/torch.h>

#include <utility>
#include <vector>

#include "core/gguf.h"
#include "core/gguf_writer.h"

namespace palimpsest {

/// What stands between encoder and decoder, with gradients: norm, matrix, GELU, matrix, as
/// LatentAdapter computes it, and the tags' rows.
class TorchAdapter {
 public:
    /// Random matrices; tags near the mean of the decoder's token `table`.
    TorchAdapter(int64_t n_in, int64_t n_out, const torch::Tensor& table);

    /// [.., n_in] to [.., n_out].
    [[nodiscard]] torch::Tensor operator()(const torch::Tensor& x) const;
    [[nodiscard]] const torch::Tensor& start() const { return start_; }  // [n_out]
    [[nodiscard]] const torch::Tensor& end() const { return end_; }
    [[nodiscard]] std::vector<torch::Tensor> parameters() const;

    /// As adapter files have them, matrices in `type`.
    void write(GgufWriter& to, ggml_type type) const;
    /// Throws kNotFound for a tensor that is not there.
    void start_from(const GgufFile& from);

 private:
    [[nodiscard]] std::vector<std::pair<const char*, torch::Tensor>> named() const;

    torch::Tensor norm_, w1_, b1_, w2_, b2_, start_, end_;
};

}  // namespace palimpsest
