#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "compress/compression_form.h"
#include "core/gguf.h"
#include "core/weights.h"
#include "model/linear.h"
#include "model/pre_norm_block.h"

namespace palimpsest {

/// What maps pooled states of the encoder into the decoder's embedding space: a norm and two
/// matrices with GELU between them, and in some whole attention layers before or behind those,
/// which see all latents of one region, in both directions, at positions from 0 on
/// (arXiv:2606.09659, section 3; the attention layers as the published code has them, not as the
/// paper's formula, which shows the attention alone). Immutable.
class LatentAdapter {
 public:
    /// Throws kNotFound, kCorrupt or kUnsupported, naming the file and what is wrong with it.
    LatentAdapter(const std::string& path, const Backend& backend);

    [[nodiscard]] const std::string& path() const { return path_; }
    [[nodiscard]] const GgufFile& file() const { return file_; }
    [[nodiscard]] const CompressionForm& form() const { return form_; }
    /// Rows for the tags, where the file has them; empty otherwise. [decoder width] each.
    [[nodiscard]] const std::vector<float>& start_row() const { return start_row_; }
    [[nodiscard]] const std::vector<float>& end_row() const { return end_row_; }

    /// Latents [n][decoder width] of pooled states [n][pooled width]. If it has attention layers,
    /// those of one whole region; otherwise rows do not depend on each other. Throws kCorrupt if
    /// what comes out is not a number.
    [[nodiscard]] std::vector<float> apply(std::span<const float> pooled, Backend& backend) const;

    [[nodiscard]] size_t bytes() const { return file_.total_bytes(); }

 private:
    class Named;  // the file's names for what layers.h asks for

    void load_layers(int64_t width);
    [[nodiscard]] std::vector<float> run(std::span<const float> pooled, Backend& backend) const;
    [[nodiscard]] Tensor mlp(const Pass& p, Tensor x) const;
    [[nodiscard]] Tensor layers(const Pass& p, Tensor x) const;

    std::string path_;
    GgufFile file_;
    CompressionForm form_;
    LinearProducts products_;
    FileWeights weights_;
    ModelConfig cfg_;  // of the attention layers
    Tensor norm_ = nullptr;
    Linear fc1_, fc2_;
    std::vector<PreNormBlock> layers_;
    std::vector<float> start_row_, end_row_;
};

}  // namespace palimpsest
