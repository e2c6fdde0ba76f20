// Granite (IBM, 2024 and 2025): the plain decoder with what comes out of every part scaled, token
// rows and logits too. In Granite 4's hybrids most blocks have a Mamba-2 mixer instead of
// attention (those without key-value heads), and no layer rotates; blocks may have experts, one of
// which all positions use.

#include <cmath>

#include "core/error.h"
#include "model/experts.h"
#include "model/families.h"
#include "model/mamba2_mixer.h"

namespace palimpsest {

namespace {

struct Block {
    Tensor norm = nullptr, ffn_norm = nullptr;
    bool attends = false;
    AttentionWeights attention = {};  // of those that do
    Mamba2Mixer mixer = {};           // of the others
    FeedForward ffn = {};
};

class Granite final : public Decoder {
 public:
    Granite(const ModelConfig& cfg, const StateSizes& sizes, float residual_scale,
            const FamilyInputs& in)
        : Decoder(cfg, in), sizes_(sizes), residual_scale_(residual_scale) {
        for (int64_t i = 0; i < cfg.n_layer; ++i) blocks_.push_back(load_block(cfg, i, in.weights));
    }

 private:
    [[nodiscard]] Block load_block(const ModelConfig& cfg, int64_t i, Weights& w) const {
        const auto norm = [&](const char* name) {
            return w.vector(cat("blk.", i, ".", name, ".weight"), cfg.n_embd);
        };
        Block b = {.norm = norm("attn_norm"), .ffn_norm = norm("ffn_norm")};
        b.attends = cfg.layers.empty() ||
                    std::holds_alternative<AttentionLayer>(cfg.layers[static_cast<size_t>(i)]);
        if (b.attends) {
            b.attention = load_attention(w, cfg, i, false);
        } else {
            b.mixer = load_mamba2_mixer(w, cfg, sizes_, i);
        }
        b.ffn = load_any_feed_forward(w, cfg, i);
        return b;
    }

    [[nodiscard]] Tensor blocks(const Pass& p, Tensor x) const override {
        for (size_t i = 0; i < blocks_.size(); ++i) {
            const Block& b = blocks_[i];
            const auto layer = static_cast<int64_t>(i);
            Tensor y = rms_norm(p, x, b.norm);
            y = b.attends ? attention(p, b.attention, y, layer)
                          : mamba2_mixer(p, b.mixer, sizes_, y, layer);
            if (i + 1 == blocks_.size()) {
                x = keep_wanted(p, x);
                y = keep_wanted(p, y);
            }
            x = add(p, x, y);
            x = add(p, x, any_feed_forward(p, b.ffn, rms_norm(p, x, b.ffn_norm)));
        }
        return x;
    }

    [[nodiscard]] Tensor add(const Pass& p, Tensor x, Tensor y) const {
        ggml_context* c = p.g.ctx();
        if (residual_scale_ != 1.0F) y = ggml_scale(c, y, residual_scale_);
        return ggml_add(c, x, y);
    }

    StateSizes sizes_;
    float residual_scale_;
    std::vector<Block> blocks_;
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
    const float residual_scale = scale_or(in.keys, "residual_scale", 1.0F);
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
    return std::make_unique<Granite>(cfg, sizes, residual_scale, in);
}

}  // namespace palimpsest
