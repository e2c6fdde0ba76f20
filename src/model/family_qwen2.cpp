// Qwen 2 and 2.5: Llama's blocks with biases on queries, keys and values, rotary positions on
// channel halves (Yang et al., 2024, arXiv:2407.10671). load_linear() finds the biases.

#include "model/families.h"
#include "model/layers.h"

namespace palimpsest {

namespace {

class Qwen2 final : public Model {
 public:
    Qwen2(ModelConfig cfg, Weights& weights)
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

std::unique_ptr<Model> make_qwen2(ModelConfig cfg, const GgufFile& /*file*/, Weights& weights) {
    return std::make_unique<Qwen2>(std::move(cfg), weights);
}

}  // namespace palimpsest
