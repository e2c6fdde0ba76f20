#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/experts.h"
#include "model/recurrent_layers.h"

namespace palimpsest {

/// A mixer that is not attention: [n_embd, n] to [n_embd, n], of block `layer`.
class RecurrentMixer {
 public:
    RecurrentMixer() = default;
    virtual ~RecurrentMixer() = default;
    RecurrentMixer(const RecurrentMixer&) = delete;
    RecurrentMixer& operator=(const RecurrentMixer&) = delete;
    [[nodiscard]] virtual Tensor mix(const Pass& p, Tensor x, int64_t layer) const = 0;
};

/// How the blocks of a MixedDecoder are loaded.
struct MixedBlocks {
    std::string ffn_norm;   // its name in files
    bool is_gated = false;  // does attention gate its output?
    /// Loads block i's mixer, where it does not attend.
    std::function<std::unique_ptr<RecurrentMixer>(Weights& w, const ModelConfig& cfg, int64_t i)>
        load_mixer = {};
};

/// A decoder whose blocks attend or are recurrent, as cfg.layers says (empty: all attend): x +
/// mixer(norm(x)), then x + feed_forward(norm(x)), what is added being scaled by
/// cfg.residual_scale.
class MixedDecoder final : public Decoder {
 public:
    MixedDecoder(const ModelConfig& cfg, const MixedBlocks& blocks, const FamilyInputs& in);

 private:
    struct Block {
        Tensor norm = nullptr, ffn_norm = nullptr;
        AttentionWeights attention = {};
        std::unique_ptr<RecurrentMixer> mixer = nullptr;  // instead
        FeedForward ffn = {};
    };
    [[nodiscard]] Tensor blocks(const Pass& p, Tensor x) const override;

    std::vector<Block> blocks_;
};

}  // namespace palimpsest
