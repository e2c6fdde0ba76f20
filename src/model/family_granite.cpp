// Granite (IBM, 2024 and 2025): the plain decoder with what comes out of every part scaled, token
// rows and logits too. In Granite 4's hybrids most blocks have a Mamba-2 mixer instead of
// attention (those without key-value heads), and no layer rotates; blocks may have experts, one of
// which all positions use.

#include "model/families.h"
#include "model/mamba2_mixer.h"
#include "model/mixed_decoder.h"

namespace palimpsest {

namespace {

class Mixer final : public RecurrentMixer {
 public:
    Mixer(Weights& w, const ModelConfig& cfg, const StateSizes& sizes, int64_t i)
        : weights_(load_mamba2_mixer(w, cfg, sizes, i)), sizes_(sizes) {}
    [[nodiscard]] Tensor mix(const Pass& p, Tensor x, int64_t layer) const override {
        return mamba2_mixer(p, weights_, sizes_, x, layer);
    }

 private:
    Mamba2Mixer weights_;
    StateSizes sizes_;
};

/// A scale, where 0 and absent stand for none.
float scale_or(const ModelKeys& keys, const char* key, float none) {
    const float scale = keys.positive_or_none(key);
    return scale == 0.0F ? none : scale;
}

}  // namespace

std::unique_ptr<Model> make_granite(const FamilyInputs& in) {
    ModelConfig cfg = in.cfg;
    cfg.embedding_scale = scale_or(in.keys, "embedding_scale", 1.0F);
    cfg.logit_divisor = scale_or(in.keys, "logit_scale", 1.0F);
    cfg.attention_scale = scale_or(in.keys, "attention.scale", 0.0F);
    // In files of this family the key says whether layers rotate at all.
    cfg.rotates = in.keys.flag_or("rope.scaling.finetuned", true);
    cfg.residual_scale = scale_or(in.keys, "residual_scale", 1.0F);
    StateSizes sizes;
    if (in.traits.has_states) {
        sizes = read_state_sizes(in.keys);
        const auto heads = in.keys.layers_flags("attention.head_count_kv", cfg.n_layer);
        for (int64_t i = 0; i < cfg.n_layer; ++i) {
            const bool attends = heads.empty() || heads[static_cast<size_t>(i)] > 0;
            cfg.layers.push_back(attends ? LayerShape(AttentionLayer{.n_head_kv = cfg.n_head_kv,
                                                                     .d_head = cfg.d_head})
                                         : LayerShape(sizes.layer("scalar-decay", false)));
        }
    }
    const MixedBlocks blocks = {.ffn_norm = "ffn_norm",
                                .load_mixer = [sizes](Weights& w, const ModelConfig& c, int64_t i) {
                                    return std::make_unique<Mixer>(w, c, sizes, i);
                                }};
    return std::make_unique<MixedDecoder>(cfg, blocks, in);
}

}  // namespace palimpsest
