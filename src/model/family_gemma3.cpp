// Gemma 3, text: norms before and after each half of a block, normed queries and keys, GeGLU, and
// five layers with a sliding window to one that sees everything, each kind with a rotary base of
// its own (Gemma Team, 2025, arXiv:2503.19786). Embeddings are scaled by sqrt(n_embd).
//
// Norm weights are stored with their 1 added. ggml's GELU reads a half-precision table on CPUs, so
// logits differ from exact arithmetic by up to 3e-3 on the golden model.

#include <cmath>

#include "core/error.h"
#include "model/families.h"
#include "model/layers.h"

namespace palimpsest {

namespace {

constexpr int64_t kDefaultPeriod = 6;  // every sixth layer sees everything
constexpr int64_t kMostPeriod = 65536;
constexpr int64_t kLayersOf27B = 62;  // the one size that scales queries by n_embd / n_head

struct Block {
    Tensor attn_norm = nullptr, attn_post_norm = nullptr, ffn_norm = nullptr,
           ffn_post_norm = nullptr;
    AttentionWeights attn;
    FeedForwardWeights ffn;
};

/// A layer's window by a period (every period-th sees all) or by one flag a layer.
std::vector<int64_t> read_windows(const ModelConfig& cfg, const ModelKeys& keys) {
    const std::string pattern = "attention.sliding_window_pattern";
    const std::vector<int64_t> flags = keys.layers_flags(pattern, cfg.n_layer);
    const int64_t period =
        flags.empty() ? keys.count_or(pattern, {1, kMostPeriod}, kDefaultPeriod) : 1;
    const int64_t window = keys.count_or("attention.sliding_window", {0, cfg.n_ctx_train}, 0);
    if (window == 0) return {};
    std::vector<int64_t> windows;
    for (int64_t i = 0; i < cfg.n_layer; ++i) {
        const bool slides =
            flags.empty() ? (i + 1) % period != 0 : flags[static_cast<size_t>(i)] != 0;
        windows.push_back(slides ? window : 0);
    }
    return windows;
}

class Gemma3 final : public Decoder {
 public:
    Gemma3(const ModelConfig& cfg, const FamilyInputs& in) : Decoder(cfg, in) {
        Weights& w = in.weights;
        for (int64_t i = 0; i < cfg.n_layer; ++i) {
            const auto norm = [&](const char* name) {
                return w.vector(cat("blk.", i, ".", name, ".weight"), cfg.n_embd);
            };
            blocks_.push_back({.attn_norm = norm("attn_norm"),
                               .attn_post_norm = norm("post_attention_norm"),
                               .ffn_norm = norm("ffn_norm"),
                               .ffn_post_norm = norm("post_ffw_norm"),
                               .attn = load_attention(w, cfg, i, in.traits.norms_heads),
                               .ffn = load_feed_forward(w, cfg, i)});
            if (cfg.n_layer == kLayersOf27B) {
                blocks_.back().attn.scale = 1.0F / std::sqrt(static_cast<float>(cfg.n_embd) /
                                                             static_cast<float>(cfg.n_head));
            }
        }
    }

 private:
    [[nodiscard]] Tensor blocks(const Pass& p, Tensor x) const override {
        ggml_context* c = p.g.ctx();
        for (size_t i = 0; i < blocks_.size(); ++i) {
            const Block& b = blocks_[i];
            Tensor a = attention(p, b.attn, rms_norm(p, x, b.attn_norm), static_cast<int64_t>(i));
            if (i + 1 == blocks_.size()) {
                x = keep_wanted(p, x);
                a = keep_wanted(p, a);
            }
            x = ggml_add(c, x, rms_norm(p, a, b.attn_post_norm));
            Tensor f = feed_forward(p, b.ffn, Gating::kGelu, rms_norm(p, x, b.ffn_norm));
            x = ggml_add(c, x, rms_norm(p, f, b.ffn_post_norm));
        }
        return x;
    }

    std::vector<Block> blocks_;
};

}  // namespace

std::unique_ptr<Model> make_gemma3(const FamilyInputs& in) {
    ModelConfig cfg = in.cfg;
    cfg.embedding_scale = std::sqrt(static_cast<float>(cfg.n_embd));
    cfg.windows = read_windows(cfg, in.keys);
    cfg.rope_base_window = in.keys.positive_or("rope.freq_base_swa", 1e4F);
    cfg.final_logit_softcap = in.keys.positive_or_none("final_logit_softcapping");
    return std::make_unique<Gemma3>(cfg, in);
}

}  // namespace palimpsest
