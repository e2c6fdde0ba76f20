#pragma once

#include <functional>
#include <span>
#include <vector>

#include "model/families.h"
#include "model/linear.h"
#include "model/model.h"

namespace palimpsest {

// Pieces that families compose. All take and return [n_embd, n] f32, all lanes side by side,
// unless they say otherwise.

/// What the blocks of one pass share.
struct Pass {
    Graph& g;
    const ModelConfig& cfg;
    const LinearProducts& products;
    const std::vector<Lane>& lanes;
    Tensor positions = nullptr;  // [n] i32, all lanes one after another
    Tensor wanted = nullptr;  // [n_wanted] i32, columns of which anything is wanted; nullptr: all
    int64_t n = 0;
    int64_t n_filling = 0;  // of the n, the last: nobody reads them
    int64_t n_wanted = 0;
    int64_t least_rows = 1;  // of every product
    ManyRows many = {};      // that every lane has

    /// For a product with x, whose columns are all or the wanted ones.
    [[nodiscard]] bool is_many(Tensor x) const { return x->ne[1] == n ? many.read : many.wanted; }
};

struct AttentionWeights {
    Linear q, k, v, o;
    Tensor q_norm = nullptr, k_norm = nullptr;  // [d_head], some families
    Tensor rope_factors = nullptr;              // [n_rot / 2], llama3 scaling
    float scale = 0.0F;                         // of q . k
    bool is_gated = false;  // q gives, head after head, a query and as many gates of the output
};

struct FeedForwardWeights {
    Linear gate, up, down;
};

/// What every family here has around its blocks.
struct OuterWeights {
    Tensor embedding = nullptr, norm = nullptr;
    Linear head;
};

/// A lane's positions, among those of all.
struct LanePart {
    const Lane& lane;
    int64_t at = 0;
    bool is_all = false;  // there are no others

    /// The lane's columns of a tensor of all lanes, whose last used dimension runs over positions.
    [[nodiscard]] Tensor of(const Pass& p, Tensor t) const;
};

/// A model that is embedding, blocks, and a head behind a norm. Families say what their blocks are.
class Decoder : public Model {
 public:
    /// `in.products` must outlive it. Throws as Weights does.
    Decoder(ModelConfig cfg, const FamilyInputs& in);

    [[nodiscard]] const ModelConfig& config() const final { return cfg_; }
    [[nodiscard]] const LinearProducts& products() const final { return products_; }
    ModelOutputs forward(Graph& g, const std::vector<Lane>& lanes, int64_t least_rows) const final;

 protected:
    /// All blocks, of x [n_embd, n]; of the last one only the wanted columns (keep_wanted()).
    [[nodiscard]] virtual Tensor blocks(const Pass& p, Tensor x) const = 0;

 private:
    ModelConfig cfg_;
    const LinearProducts& products_;
    OuterWeights outer_;
};

/// Loads `prefix.weight` [n_in, n_out] and, if the file has it, `prefix.bias`.
Linear load_linear(Weights& w, const std::string& prefix, int64_t n_in, int64_t n_out);
/// Loads q, k, v, o of block `i`, q and k norms if `has_norms`, and sets the usual scale.
AttentionWeights load_attention(Weights& w, const ModelConfig& cfg, int64_t i, bool has_norms,
                                bool is_gated = false);
FeedForwardWeights load_feed_forward(Weights& w, const ModelConfig& cfg, int64_t i);
/// Token table, last norm, head (the token table again where the file has no other).
OuterWeights load_outer(Weights& w, const ModelConfig& cfg);

Pass begin_pass(Graph& g, const ModelConfig& cfg, const LinearProducts& products,
                const std::vector<Lane>& lanes, int64_t least_rows);
/// Token rows, multiplied by `scale`, and ready rows of every lane.
Tensor embed(const Pass& p, Tensor table, float scale = 1.0F);
Tensor rms_norm(const Pass& p, Tensor x, Tensor weight);
/// `work` of every lane, side by side: [n_rows, n].
Tensor for_each_lane(const Pass& p, const std::function<Tensor(const LanePart&)>& work);
/// Projects, rotates, asks each lane's memory for its part, projects back.
Tensor attention(const Pass& p, const AttentionWeights& w, Tensor x, int64_t layer);
/// Only the columns of which anything is wanted. After it, no layer may attend.
Tensor keep_wanted(const Pass& p, Tensor x);
/// down(f(gate(x)) * up(x))
Tensor feed_forward(const Pass& p, const FeedForwardWeights& w, Gating f, Tensor x);
/// What is wanted of the wanted columns.
ModelOutputs outputs(const Pass& p, const OuterWeights& w, Tensor x);

}  // namespace palimpsest
