#include "model/mixed_decoder.h"

#include "core/error.h"

namespace palimpsest {

namespace {

/// x + scale y
Tensor add_scaled(const Pass& p, Tensor x, Tensor y) {
    const float scale = p.cfg.residual_scale;
    if (scale != 1.0F) y = ggml_scale(p.g.ctx(), y, scale);
    return ggml_add(p.g.ctx(), x, y);
}

}  // namespace

MixedDecoder::MixedDecoder(const ModelConfig& cfg, const MixedBlocks& blocks,
                           const FamilyInputs& in)
    : Decoder(cfg, in) {
    for (int64_t i = 0; i < cfg.n_layer; ++i) {
        const auto norm = [&](const std::string& name) {
            return in.weights.vector(cat("blk.", i, ".", name, ".weight"), cfg.n_embd);
        };
        Block b = {.norm = norm("attn_norm"), .ffn_norm = norm(blocks.ffn_norm)};
        const bool attends = cfg.layers.empty() || std::holds_alternative<AttentionLayer>(
                                                       cfg.layers[static_cast<size_t>(i)]);
        if (attends) {
            b.attention =
                load_attention(in.weights, cfg, i, in.traits.norms_heads, blocks.is_gated);
        } else {
            b.mixer = blocks.load_mixer(in.weights, cfg, i);
        }
        b.ffn = load_any_feed_forward(in.weights, cfg, i);
        blocks_.push_back(std::move(b));
    }
}

Tensor MixedDecoder::blocks(const Pass& p, Tensor x) const {
    for (size_t i = 0; i < blocks_.size(); ++i) {
        const Block& b = blocks_[i];
        const auto layer = static_cast<int64_t>(i);
        Tensor y = rms_norm(p, x, b.norm);
        y = b.mixer == nullptr ? attention(p, b.attention, y, layer) : b.mixer->mix(p, y, layer);
        if (i + 1 == blocks_.size()) {
            x = keep_wanted(p, x);
            y = keep_wanted(p, y);
        }
        x = add_scaled(p, x, y);
        x = add_scaled(p, x, any_feed_forward(p, b.ffn, rms_norm(p, x, b.ffn_norm)));
    }
    return x;
}

}  // namespace palimpsest
