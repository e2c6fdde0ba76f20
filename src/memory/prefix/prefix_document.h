#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/gguf.h"
#include "core/types.h"
#include "memory/kernels/attention_kernel.h"
#include "memory/kernels/match_kernel.h"
#include "memory/prefix/codebook.h"
#include "memory/prefix/prefix_layout.h"
#include "memory/prefix/two_level.h"

namespace palimpsest {

/// How queries are compared: before or after their positions turned them.
enum class PrefixKeys { kPre, kPost };

[[nodiscard]] std::string_view to_string(PrefixKeys keys);

/// What a memory was made of and how good it was found; a memory is right for nothing else.
struct PrefixHeader {
    std::string name;             // of the document, for people and for `compose`
    std::string text;             // the prefix itself
    bool is_raw = false;          // no chat template: the text stands alone
    std::vector<TokenId> tokens;  // beginning and template included
    std::string model_name;
    std::string model, tokenizer, chat_template, rotation;  // hashes
    int64_t n_layer = 0;
    PrefixLayout layout = {};
    PrefixKeys keys = PrefixKeys::kPre;
    bool is_whitened = false;
    int64_t k = 0;  // entries asked for
    // How it was made; empty in older files.
    std::string aggregation;  // "weighted" or "plain"
    std::string kept_by;      // what showed which entries to keep; "": none are kept
    int64_t seed = 0, n_traces = 0, n_trace_tokens = 0, n_held_out = 0;
    int64_t n_chunks = 1;    // pieces of the prefix that were read apart
    int64_t chunks_end = 0;  // the position after each of them, if there are several
    float e_out = -1, e_out_worst = -1, e_out_answer = -1;  // section 9.3; below 0: not measured
    float agreement = -1, divergence = -1;                  // free-running, at answers
    bool is_against_pieces = false;  // these are against each piece alone, not the whole prefix
    std::vector<float> layer_errors = {};  // [E_out, E_a, E_l, E_w] a layer; empty: not measured
};

/// Rows past a head's last that kernels, which read whole vectors, may touch.
inline constexpr int64_t kPaddingRows = 8;

/// Could a model have such heads?
[[nodiscard]] bool is_possible(const PrefixLayout& layout);

/// One layer's dictionaries as they lie in a file. C codebooks of up to K entries, B heads an
/// entry of D values. A tensor without data is absent.
struct PrefixLayer {
    GgufTensor keys;         // [kMatchTile, B*D, ceil(K / kMatchTile), C], f16 or i8
    GgufTensor key_scale;    // [K, C] f32, with i8
    GgufTensor values;       // [B*D, K, C], f16 or i8
    GgufTensor value_scale;  // [B, K, C] f32, with i8
    GgufTensor lse;          // [B, K, C] f32
    GgufTensor count;        // [C] i32: entries in use
    GgufTensor occupancy;    // [K, C] i32: records behind an entry
    GgufTensor radius;       // [K, C] f32
    GgufTensor list_keys;    // [kMatchTile, B*D, ceil(N / kMatchTile), C] f16: N lists of entries
    GgufTensor list_start;   // [N + 1, C] i32: lists' first entries, the last one's end
    GgufTensor whitening;    // [D, D, B, C] f32, if keys are whitened
    GgufTensor floor;        // [C] f32: similarity below which a query is unlike any trace
    GgufTensor exact_k;      // [D, L + padding, Hkv] f16: the prefix itself, for the gate
    GgufTensor exact_v;
    GgufTensor kept_k;      // [D, M + padding] f16 or q8_0: M of the prefix's own entries, head
    GgufTensor kept_v;      // after head, which the states in the dictionaries leave out
    GgufTensor kept_at;     // [M] i32: their positions, ascending in each head
    GgufTensor kept_start;  // [Hkv + 1] i32: heads' first entries, the last one's end
};

/// A name in the file, the tensor, and what it must be.
struct PrefixPart {
    std::string_view name;
    GgufTensor* tensor = nullptr;
    bool is_needed = true;
};
[[nodiscard]] std::vector<PrefixPart> parts_of(PrefixLayer& layer, const PrefixHeader& header);

/// What one lookup found.
struct PrefixEntry {
    int64_t index = -1;
    float similarity = 0;  // cosine, whitened if keys are
};

/// A prefix as a dictionary of attention states. Immutable; shared by any number of sequences.
class PrefixDocument {
 public:
    /// `owner` keeps the tensors' bytes alive. Throws kCorrupt if tensors do not fit the header.
    PrefixDocument(PrefixHeader header, std::vector<PrefixLayer> layers,
                   std::shared_ptr<const void> owner);

    [[nodiscard]] const PrefixHeader& header() const { return header_; }
    [[nodiscard]] const std::vector<PrefixLayer>& layers() const { return layers_; }
    [[nodiscard]] int64_t n_tokens() const { return std::ssize(header_.tokens); }
    /// Positions that requests start after: those of the prefix, or of the longest of its pieces.
    [[nodiscard]] int64_t n_positions() const {
        return header_.n_chunks > 1 ? header_.chunks_end : n_tokens();
    }

    [[nodiscard]] int64_t count(int64_t layer, int64_t codebook) const;
    /// Keys of one codebook, for best_matches().
    [[nodiscard]] MatchKeys keys(int64_t layer, int64_t codebook) const;
    /// Lists of a codebook's entries, for best_in_lists(); empty if it is looked through as a
    /// whole.
    [[nodiscard]] KeyLists lists(int64_t layer, int64_t codebook) const;
    [[nodiscard]] bool has_lists() const { return !layers_.front().list_keys.data.empty(); }
    /// The cosine that a product stands for. `key` has layout.width() values.
    [[nodiscard]] float similarity(int64_t layer, int64_t codebook, std::span<const float> key,
                                   float product) const;
    /// Looks through all entries, or through lists if there are any.
    [[nodiscard]] PrefixEntry find(int64_t layer, int64_t codebook,
                                   std::span<const float> key) const;
    /// The state of one head of an entry: writes d_head values, returns its logarithm.
    [[nodiscard]] float state(int64_t layer, int64_t codebook, int64_t entry, int64_t block,
                              std::span<float> out) const;
    /// Negative: there is none.
    [[nodiscard]] float floor(int64_t layer, int64_t codebook) const;
    [[nodiscard]] bool has_exact() const { return !layers_.front().exact_k.data.empty(); }
    /// The prefix's own entries of a KV head, if it has them.
    [[nodiscard]] EntryRows exact(int64_t layer, int64_t head_kv) const;

    /// Of the prefix's own entries, does each KV head of a layer keep some beside its dictionary?
    [[nodiscard]] bool keeps_entries(int64_t layer) const {
        return !layers_[static_cast<size_t>(layer)].kept_at.data.empty();
    }
    /// Does any layer?
    [[nodiscard]] bool keeps_entries() const;
    /// Does every one?
    [[nodiscard]] bool keeps_in_all_layers() const;
    [[nodiscard]] int64_t n_kept(int64_t layer, int64_t head_kv) const;
    /// Only where the layer keeps some.
    [[nodiscard]] EntryRows kept(int64_t layer, int64_t head_kv) const;
    /// Their positions, ascending: [layer * n_head_kv + head_kv].
    [[nodiscard]] std::vector<std::vector<int32_t>> kept_positions() const;

    /// Memory that requests read from, all layers: keys, values, logarithms, whitening, kept
    /// entries.
    [[nodiscard]] size_t held_bytes() const;
    /// Of that, what one token reads.
    [[nodiscard]] size_t moved_bytes() const;
    /// What the exact prefix takes in the file; no memory for long unless the gate reads it.
    [[nodiscard]] size_t exact_bytes() const;

 private:
    PrefixHeader header_;
    std::vector<PrefixLayer> layers_;
    std::shared_ptr<const void> owner_;
};

/// How entries are stored.
enum class PrefixStorage { kF16, kI8 };

/// Bytes that the matrices of whitening take, all codebooks of all layers.
[[nodiscard]] size_t prefix_whitening_bytes(const PrefixLayout& layout, int64_t n_layer);

/// Bytes that lists take, all codebooks of all layers, k entries a codebook.
[[nodiscard]] size_t prefix_list_bytes(const PrefixLayout& layout, int64_t n_layer, int64_t k);

/// What kept entries are stored as: q8_0 beside i8, where the head size is made of its blocks, else
/// f16.
[[nodiscard]] ggml_type kept_type(const PrefixLayout& layout, PrefixStorage storage);

/// Bytes that n kept entries take, all heads together of so many layers that keep some.
[[nodiscard]] size_t prefix_kept_bytes(const PrefixLayout& layout, int64_t n_layer, int64_t n,
                                       PrefixStorage storage);

/// Bytes that dictionaries of k entries take, all codebooks of all layers; keys lie in whole tiles.
[[nodiscard]] size_t prefix_dictionary_bytes(const PrefixLayout& layout, int64_t n_layer, int64_t k,
                                             PrefixStorage storage);

/// Several, in the order they stand in; shared by whoever uses them.
using PrefixDocuments = std::vector<std::shared_ptr<const PrefixDocument>>;

}  // namespace palimpsest
