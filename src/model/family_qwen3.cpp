// Qwen 3, dense: Qwen 2's blocks without biases, every head's queries and keys normed before
// rotation (Yang et al., 2025, arXiv:2505.09388).

#include "model/families.h"
#include "model/layers.h"

namespace palimpsest {

namespace {

class Qwen3 final : public Model {
 public:
    Qwen3(ModelConfig cfg, Weights& weights)
        : cfg_(std::move(cfg)), outer_(load_outer(weights, cfg_)) {
        for (int64_t i = 0; i < cfg_.n_layer; ++i) {
            blocks_.push_back(load_decoder_block(weights, cfg_, i, true));
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

std::unique_ptr<Model> make_qwen3(ModelConfig cfg, const GgufFile& /*file*/, Weights& weights) {
    return std::make_unique<Qwen3>(std::move(cfg), weights);
}

}  // namespace palimpsest
