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

#include "model/families.h"
#include "model/layers.h"

namespace palimpsest {

namespace {

class PreNormDecoder final : public Model {
 public:
    explicit PreNormDecoder(const FamilyInputs& in)
        : cfg_(in.cfg), products_(in.products), outer_(load_outer(in.weights, cfg_)) {
        for (int64_t i = 0; i < cfg_.n_layer; ++i) {
            blocks_.push_back(load_pre_norm_block(in.weights, cfg_, i, in.traits.norms_heads));
        }
    }

    [[nodiscard]] const ModelConfig& config() const override { return cfg_; }
    [[nodiscard]] const LinearProducts& products() const override { return products_; }

    ModelOutputs forward(Graph& g, const std::vector<Lane>& lanes,
                         int64_t least_rows) const override {
        const Pass p = begin_pass(g, cfg_, products_, lanes, least_rows);
        Tensor x = embed(p, outer_.embedding);
        for (int64_t i = 0; i < cfg_.n_layer; ++i) {
            const bool is_last = i + 1 == cfg_.n_layer;
            x = pre_norm_block(p, blocks_[static_cast<size_t>(i)], x, i, is_last);
        }
        return outputs(p, outer_, x);
    }

 private:
    ModelConfig cfg_;
    const LinearProducts& products_;
    OuterWeights outer_;
    std::vector<PreNormBlock> blocks_;
};

}  // namespace

std::unique_ptr<Model> make_pre_norm(const FamilyInputs& in) {
    return std::make_unique<PreNormDecoder>(in);
}

}  // namespace palimpsest
