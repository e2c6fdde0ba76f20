#include "model/pre_norm_block.h"

#include "core/error.h"

namespace palimpsest {

PreNormBlock load_pre_norm_block(Weights& w, const ModelConfig& cfg, int64_t i, bool has_norms) {
    return {.attn_norm = w.vector(cat("blk.", i, ".attn_norm.weight"), cfg.n_embd),
            .ffn_norm = w.vector(cat("blk.", i, ".ffn_norm.weight"), cfg.n_embd),
            .attn = load_attention(w, cfg, i, has_norms),
            .ffn = load_any_feed_forward(w, cfg, i)};
}

Tensor pre_norm_block(const Pass& p, const PreNormBlock& b, Tensor x, int64_t layer, bool is_last) {
    ggml_context* c = p.g.ctx();
    Tensor a = attention(p, b.attn, rms_norm(p, x, b.attn_norm), layer);
    if (is_last) {
        x = keep_wanted(p, x);
        a = keep_wanted(p, a);
    }
    x = ggml_add(c, x, a);
    return ggml_add(c, x, any_feed_forward(p, b.ffn, rms_norm(p, x, b.ffn_norm)));
}

}  // namespace palimpsest
