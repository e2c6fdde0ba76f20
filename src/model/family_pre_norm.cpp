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
#include "model/pre_norm_block.h"

namespace palimpsest {

namespace {

class PreNormDecoder final : public Decoder {
 public:
    explicit PreNormDecoder(const FamilyInputs& in) : Decoder(in.cfg, in) {
        for (int64_t i = 0; i < in.cfg.n_layer; ++i) {
            blocks_.push_back(load_pre_norm_block(in.weights, in.cfg, i, in.traits.norms_heads));
        }
    }

 private:
    [[nodiscard]] Tensor blocks(const Pass& p, Tensor x) const override {
        for (size_t i = 0; i < blocks_.size(); ++i) {
            const bool is_last = i + 1 == blocks_.size();
            x = pre_norm_block(p, blocks_[i], x, static_cast<int64_t>(i), is_last);
        }
        return x;
    }

    std::vector<PreNormBlock> blocks_;
};

}  // namespace

std::unique_ptr<Model> make_pre_norm(const FamilyInputs& in) {
    return std::make_unique<PreNormDecoder>(in);
}

}  // namespace palimpsest
