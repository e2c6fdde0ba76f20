// The plain decoder: x + attention(norm(x)), then x + swiglu(norm(x)), block after block. Families
// of this form differ by the traits in families.cpp alone:
//
// * Llama 2 and 3, Mistral 7B, SmolLM2 (Touvron et al., 2023, arXiv:2302.13971; Grattafiori et al.,
//   2024, arXiv:2407.21783). Llama 3's frequency scaling comes as a tensor of factors
//   (`rope_freqs.weight`). A window that a file of this architecture may state (Mistral 0.1) is not
//   applied, as libllama does not either.
// * Qwen 2 and 2.5: biases on queries, keys and values, which load_linear() finds (Yang et al.,
//   2024, arXiv:2407.10671).
// * Qwen 3, dense: no biases; every head's queries and keys are normed before rotation
//   (Yang et al., 2025, arXiv:2505.09388).

#include "core/error.h"
#include "model/families.h"
#include "model/layers.h"

namespace palimpsest {

namespace {

struct Block {
    Tensor attn_norm = nullptr, ffn_norm = nullptr;
    AttentionWeights attn;
    FeedForwardWeights ffn;
};

class PreNormDecoder final : public Model {
 public:
    explicit PreNormDecoder(const FamilyInputs& in)
        : cfg_(in.cfg), products_(in.products), outer_(load_outer(in.weights, cfg_)) {
        Weights& w = in.weights;
        for (int64_t i = 0; i < cfg_.n_layer; ++i) {
            blocks_.push_back(
                {.attn_norm = w.vector(cat("blk.", i, ".attn_norm.weight"), cfg_.n_embd),
                 .ffn_norm = w.vector(cat("blk.", i, ".ffn_norm.weight"), cfg_.n_embd),
                 .attn = load_attention(w, cfg_, i, in.traits.norms_heads),
                 .ffn = load_feed_forward(w, cfg_, i)});
        }
    }

    [[nodiscard]] const ModelConfig& config() const override { return cfg_; }
    [[nodiscard]] const LinearProducts& products() const override { return products_; }

    ModelOutputs forward(Graph& g, const std::vector<Lane>& lanes,
                         int64_t least_rows) const override {
        const Pass p = begin_pass(g, cfg_, products_, lanes, least_rows);
        ggml_context* c = g.ctx();
        Tensor x = embed(p, outer_.embedding);
        for (size_t i = 0; i < blocks_.size(); ++i) {
            const Block& b = blocks_[i];
            Tensor a = attention(p, b.attn, rms_norm(p, x, b.attn_norm), static_cast<int64_t>(i));
            if (i + 1 == blocks_.size()) {
                x = keep_wanted(p, x);
                a = keep_wanted(p, a);
            }
            x = ggml_add(c, x, a);
            x = ggml_add(c, x, feed_forward(p, b.ffn, Gating::kSilu, rms_norm(p, x, b.ffn_norm)));
        }
        return outputs(p, outer_, x);
    }

 private:
    ModelConfig cfg_;
    const LinearProducts& products_;
    OuterWeights outer_;
    std::vector<Block> blocks_;
};

}  // namespace

std::unique_ptr<Model> make_pre_norm(const FamilyInputs& in) {
    return std::make_unique<PreNormDecoder>(in);
}

}  // namespace palimpsest
