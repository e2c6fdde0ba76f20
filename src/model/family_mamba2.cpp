// Mamba-2: x + mixer(norm(x)), block after block, without attention or feed-forward.

#include "core/error.h"
#include "model/families.h"
#include "model/mamba2_mixer.h"

namespace palimpsest {

namespace {

struct Block {
    Tensor norm = nullptr;
    Mamba2Mixer mixer;
};

class Mamba2 final : public Decoder {
 public:
    Mamba2(const ModelConfig& cfg, const StateSizes& sizes, const FamilyInputs& in)
        : Decoder(cfg, in), sizes_(sizes) {
        Weights& w = in.weights;
        for (int64_t i = 0; i < cfg.n_layer; ++i) {
            blocks_.push_back({.norm = w.vector(cat("blk.", i, ".attn_norm.weight"), cfg.n_embd),
                               .mixer = load_mamba2_mixer(w, cfg, sizes_, i)});
        }
    }

 private:
    [[nodiscard]] Tensor blocks(const Pass& p, Tensor x) const override {
        for (size_t i = 0; i < blocks_.size(); ++i) {
            const Block& b = blocks_[i];
            Tensor y =
                mamba2_mixer(p, b.mixer, sizes_, rms_norm(p, x, b.norm), static_cast<int64_t>(i));
            x = ggml_add(p.g.ctx(), x, y);
        }
        return keep_wanted(p, x);
    }

    StateSizes sizes_;
    std::vector<Block> blocks_;
};

}  // namespace

std::unique_ptr<Model> make_mamba2(const FamilyInputs& in) {
    const StateSizes sizes = read_state_sizes(in.keys);
    ModelConfig cfg = in.cfg;
    cfg.layers.assign(static_cast<size_t>(cfg.n_layer), sizes.layer("scalar-decay", false));
    return std::make_unique<Mamba2>(cfg, sizes, in);
}

}  // namespace palimpsest
