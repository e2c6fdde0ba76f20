#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/gguf.h"
#include "core/graph.h"
#include "memory/context_memory.h"

namespace palimpsest {

/// Normalisation of a row: root mean square, or mean and variance with weight and bias.
enum class NormKind { kRms, kLayer };

struct NormWeights {
    Tensor weight = nullptr;
    Tensor bias = nullptr;  // nullptr: none
};

/// What the indexer's scores go through before its heads are added up.
enum class Activation { kRelu, kLeakyRelu, kSoftplus, kIdentity };

inline constexpr float kLeak = 0.01F;  // slope of kLeakyRelu below zero

/// As files and flags name them.
inline constexpr std::array<std::pair<std::string_view, Activation>, 4> kActivations = {
    {{"relu", Activation::kRelu},
     {"leaky_relu", Activation::kLeakyRelu},
     {"softplus", Activation::kSoftplus},
     {"identity", Activation::kIdentity}}};

/// Throws kInvalidArgument for one that none has.
[[nodiscard]] std::string_view activation_name(Activation activation);
[[nodiscard]] std::optional<Activation> find_activation(std::string_view name);

/// Channels of an indexer's head: the paper's eighth of a model's would be none in small ones, and
/// the kernel takes so many at most.
inline constexpr int64_t kLeastIndexWidth = 4, kMostIndexWidth = 128;
inline constexpr int64_t kMostIndexHeads = 1024;  // more than any model has heads

/// One layer's indexer (IndexMem, arXiv:2605.25475, section 3.1). Shapes in ggml order.
struct IndexerLayer {
    Tensor q = nullptr;          // [n_head * d_head, H_i * d_i]: of the queries before RoPE
    Tensor k = nullptr;          // [n_embd, d_i]: of the block's normed input
    Tensor k_bias = nullptr;     // [d_i], or none
    Tensor head = nullptr;       // [n_embd, H_i]: signed weights of the indexer's heads
    Tensor head_bias = nullptr;  // [H_i], or none
    NormWeights q_norm, k_norm;  // [d_i]
    std::vector<float> bias;     // [n_group], of the importance (ours)
};

struct IndexerWeights {
    int64_t n_head = 0;     // H_i
    int64_t d_head = 0;     // d_i
    int64_t n_group = 1;    // of KV heads, each with its own importance and as many of the heads
    int64_t n_recent = 0;   // last positions that it was not taught to rank: they stay
    std::string allocator;  // how heads share a budget if the user names none; empty: any way
    NormKind norm = NormKind::kRms;
    float epsilon = 1e-6F;
    Activation activation = Activation::kRelu;
    bool is_causal = true;
    std::vector<IndexerLayer> layers;  // of all layers; empty ones where nothing is evicted
};

/// How what was written to a latent memory is read.
enum class LatentForm {
    kResidual,  // added to attention's answer (section 3.2; variant V-B of the released code)
    kSoftmax,   // part of attention's softmax (ours)
};

/// An affine map of one head's rotated channels, for each KV head its own; sums run along features.
struct HeadMap {
    std::vector<float> weight;  // [n_head_kv][d_head][n_feature]
    std::vector<float> bias;    // [n_head_kv][n_feature]
};

/// One layer's latent memory.
struct LatentLayer {
    // kResidual:
    std::vector<float> phi;  // [d_head][n_feature]: features of rotated queries and keys
    float gate = 0;          // what the answer is multiplied by, 0 to 1
    float decay = 1;         // what a state is multiplied by when more is written to it
    // kSoftmax:
    HeadMap key;    // the softmax of it over features says how a key's entry is shared out
    HeadMap query;  // what a query makes of it is the features' logits
};

struct LatentWeights {
    LatentForm form = LatentForm::kResidual;
    int64_t n_feature = 0;
    // kResidual:
    float floor = 1e-6F;  // least denominator of an answer, divided by eta, which cancels elsewhere
    bool clips = false;   // answers are no longer than the longest value written to that head
    std::vector<LatentLayer> layers;  // of all layers; empty ones where nothing is evicted
};

/// Layer norm of a row; weight and bias are as long as the row.
struct LayerNorm {
    std::vector<float> weight, bias;
};

/// A number for every KV head.
struct GateOutput {
    std::vector<float> weight;  // [n_head_kv][n_mid]; empty: there is none
    std::vector<float> bias;    // [n_head_kv]
};

/// One layer's retention scorer (the successor, "The Gating Mechanism of KV Cache Eviction").
struct GateLayer {
    LayerNorm in_norm;                  // [n_embd]
    std::vector<std::byte> in;          // [n_mid][n_embd] in tiles (match_kernel.h)
    ggml_type in_type = GGML_TYPE_F32;  // or f16
    LayerNorm mid_norm;                 // [n_mid]
    GateOutput magnitude;
    GateOutput retention;  // none: scores do not fade
};

struct GateWeights {
    int64_t n_mid = 0;
    float epsilon = 1e-5F;
    std::vector<GateLayer> layers;
};

/// The model that a sidecar is to be used with.
struct BaseModel {
    std::string architecture;
    std::string fingerprint;  // model_fingerprint()
};

/// Trained weights for evicting from one model's cache: a GGUF file beside the model's
/// (docs/formats.md). Holds an indexer, a latent memory, a gate, or several of them. Immutable;
/// shared by any number of sequences.
class EvictionWeights {
 public:
    /// Loads and checks a file. Throws kNotFound if there is none, kCorrupt for one that is damaged
    /// or holds numbers that are not finite, kInvalidArgument if it belongs to another model.
    EvictionWeights(const std::string& path, const Backend& backend, const MemoryShape& shape,
                    const BaseModel& base);

    /// nullptr: the file has none.
    [[nodiscard]] const IndexerWeights* indexer() const { return indexer_.get(); }
    [[nodiscard]] const LatentWeights* latent() const { return latent_.get(); }
    [[nodiscard]] const GateWeights* gate() const { return gate_.get(); }
    /// First positions that the learned policies never let go.
    [[nodiscard]] int64_t n_sink() const { return n_sink_; }
    [[nodiscard]] const std::string& path() const { return path_; }
    /// Tells weights from others: core/fingerprint.h's of the file.
    [[nodiscard]] const std::string& fingerprint() const { return fingerprint_; }
    /// What a user should know of the file; empty: nothing.
    [[nodiscard]] const std::string& warning() const { return warning_; }

 private:
    class Loader;

    std::string path_;
    std::string fingerprint_;
    std::string warning_;
    int64_t n_sink_ = 4;
    std::unique_ptr<Storage> storage_;
    std::unique_ptr<IndexerWeights> indexer_;
    std::unique_ptr<LatentWeights> latent_;
    std::unique_ptr<GateWeights> gate_;
};

}  // namespace palimpsest
