// Llama 2 and 3, Mistral 7B, SmolLM2: pre-norm blocks, rotary positions on adjacent channel pairs,
// SwiGLU (Touvron et al., 2023, arXiv:2302.13971; Grattafiori et al., 2024, arXiv:2407.21783).
//
// Llama 3's frequency scaling comes as a tensor of factors (`rope_freqs.weight`). A window that a
// file of this architecture may state (Mistral 0.1) is not applied, as libllama does not either.

#include "model/families.h"
#include "model/layers.h"

namespace palimpsest {

namespace {

class Llama final : public Model {
 public:
    Llama(ModelConfig cfg, Weights& weights)
        : cfg_(std::move(cfg)), outer_(load_outer(weights, cfg_)) {
        for (int64_t i = 0; i < cfg_.n_layer; ++i) {
            blocks_.push_back(load_decoder_block(weights, cfg_, i, false));
        }
    }

    [[nodiscard]] const ModelConfig& config() const override { return cfg_; }

    Tensor forward(Graph& g, const std::vector<Lane>& lanes) const override {
        return decode_pre_norm(g, cfg_, lanes, outer_, blocks_);
    }

 private:
    ModelConfig cfg_;
    OuterWeights outer_;
    std::vector<DecoderBlock> blocks_;
};

}  // namespace

std::unique_ptr<Model> make_llama(ModelConfig cfg, const GgufFile& /*file*/, Weights& weights) {
    return std::make_unique<Llama>(std::move(cfg), weights);
}

}  // namespace palimpsest
