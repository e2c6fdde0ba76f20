#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/gguf.h"
#include "core/graph.h"
#include "core/weights.h"
#include "memory/context_memory.h"
#include "model/keys.h"
#include "model/linear.h"

namespace palimpsest {

/// How rotary positions are scaled past the length a model was first trained on.
struct RopeScaling {
    std::string type = "none";   // none, linear or yarn
    float factor = 1.0F;         // original positions = positions / factor
    int64_t n_ctx_original = 0;  // yarn
    float attn_factor = 1.0F;    // yarn
    float beta_fast = 32.0F, beta_slow = 1.0F, ext_factor = 0.0F;  // yarn
};

/// Of feed-forwards that are many small ones.
struct ExpertSizes {
    int64_t n = 0, n_used = 0;  // in a layer, by one position; 0: there are none
    int64_t n_ff = 0;           // width of each
    int64_t n_ff_shared = 0;    // of the one that all positions use; 0: there is none
};

/// A model's sizes and constants, as its file states them; read_config() has checked every one.
struct ModelConfig {
    std::string architecture, name;
    int64_t n_layer = 0, n_embd = 0, n_ff = 0, n_vocab = 0;
    int64_t n_head = 0, n_head_kv = 0, d_head = 0, n_rot = 0;
    float norm_eps = 1e-5F, rope_base = 10000.0F;
    RopeScaling rope_scaling;
    int64_t n_ctx_train = 0;           // positions seen in training
    std::vector<int64_t> windows;      // a layer's window; 0: sees all. Empty: all layers see all
    std::vector<LayerShape> layers;    // of families with recurrent layers. Empty: all attend
    float rope_base_window = 0.0F;     // rope base of layers with a window; 0: as the others
    bool rope_adjacent = false;        // which channels rotate together: as in Rotation
    std::vector<float> rope_factors;   // [n_rot / 2], llama3 scaling: frequencies divided by
    float final_logit_softcap = 0.0F;  // > 0: logits = cap * tanh(logits / cap)
    bool rotates = true;               // queries and keys, by their positions
    float embedding_scale = 1.0F;      // of token rows
    float residual_scale = 1.0F;       // of what a part of a block adds
    float logit_divisor = 1.0F;
    float attention_scale = 0.0F;  // of q . k; 0: one by the root of a head's size
    ExpertSizes experts;

    /// Layers with a rotary base of their own were never stretched.
    [[nodiscard]] RopeScaling rope_scaling_of(bool windowed) const {
        return windowed && rope_base_window > 0 ? RopeScaling{} : rope_scaling;
    }
    [[nodiscard]] float rope_base_of(bool windowed) const {
        return windowed && rope_base_window > 0 ? rope_base_window : rope_base;
    }
    /// The turning that rotate() in layers.cpp has ggml do.
    [[nodiscard]] Rotation rotation(bool windowed) const;
    [[nodiscard]] MemoryShape memory_shape() const;
};

/// Reads `<architecture>.*` metadata. Throws kNotFound for a missing key, kCorrupt for an
/// impossible value, kUnsupported for a variant that no family here computes (experts, ...).
ModelConfig read_config(const ModelKeys& keys);

/// Consecutive positions of one form: token ids, or ready rows. Exactly one of them is used.
///
/// Ready rows enter as they are, where token embeddings stand once the family has scaled them
/// (Gemma's by sqrt(n_embd)): a row of Gemma's token table is multiplied by that before it is given
/// here. libllama and transformers do so too.
struct Run {
    std::span<const TokenId> tokens = {};
    std::span<const float> rows = {};  // n_embd values each

    [[nodiscard]] int64_t size(int64_t n_embd) const {
        return rows.empty() ? std::ssize(tokens) : std::ssize(rows) / n_embd;
    }
};

/// One sequence's part of a graph evaluation.
struct Lane {
    ContextMemory* memory = nullptr;
    Step step;
    std::vector<Run> runs;  // step.n positions
    int64_t n_logits = 1;   // rows of logits wanted: of the last so many positions
    int64_t n_hidden = 0;   // and of hidden states after the last norm
};

/// Of which of a lane's rows there are so many that their products are those of many rows.
struct ManyRows {
    bool read = false, wanted = false, logits = false;
    bool operator==(const ManyRows&) const = default;
};

/// `many`: LinearProducts::many_rows().
[[nodiscard]] inline ManyRows many_rows(const Lane& lane, int64_t many) {
    return {.read = lane.step.n >= many,
            .wanted = std::max(lane.n_logits, lane.n_hidden) >= many,
            .logits = lane.n_logits >= many};
}

/// What a pass gives, lane after lane; nullptr where nothing is wanted. Columns that fill a pass up
/// may follow.
struct ModelOutputs {
    Tensor logits = nullptr;  // [n_vocab, sum of n_logits or more] f32
    Tensor hidden = nullptr;  // [n_embd, sum of n_hidden or more] f32
};

/// Weights and the forward pass of one family. Immutable, shared by sessions.
class Model {
 public:
    Model() = default;
    virtual ~Model() = default;
    Model(const Model&) = delete;
    Model& operator=(const Model&) = delete;

    [[nodiscard]] virtual const ModelConfig& config() const = 0;
    /// How its matrices are multiplied with.
    [[nodiscard]] virtual const LinearProducts& products() const = 0;

    /// Appends the pass of all lanes to `g`, of `least_rows` positions or more: rows that nobody
    /// reads fill it up.
    /// Products are those of many rows if all lanes have many; a lane's results depend on that, so
    /// lanes of one kind belong together (Evaluator sorts them).
    /// `lanes` is read again whenever the graph runs: it must stay where it is.
    virtual ModelOutputs forward(Graph& g, const std::vector<Lane>& lanes,
                                 int64_t least_rows = 1) const = 0;
};

}  // namespace palimpsest
