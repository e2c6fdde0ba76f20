#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/gguf.h"
#include "core/gguf_writer.h"
#include "core/types.h"

namespace palimpsest {

// Latent context: an encoder model reads a text in windows of its own, and every few neighbouring
// tokens become one row of the decoder's embedding space ("End-to-End Context Compression at
// Scale", arXiv:2606.09659, sections 3 and 5). What follows says how; nothing here computes.

/// What a group of neighbouring tokens comes to, before the adapter.
enum class Pooling {
    kMean,    // the mean of the tokens' states; of a short last group, over those it has
    kConcat,  // the states laid end to end; a short last group is filled with zeros
    kEos,     // the states at marker tokens behind the window, one a group
};

/// Where an adapter has whole attention layers, which see all latents of one region.
enum class AdapterKind { kMlp, kAttentionMlp, kMlpAttention };

/// How an adapter file says that text becomes latents.
struct CompressionForm {
    int64_t ratio = 0;    // tokens in a group
    int64_t window = 0;   // tokens that the encoder pools at once, a multiple of `ratio`
    int64_t overlap = 0;  // tokens before a window that it reads too; both sides, if bidirectional
    Pooling pooling = Pooling::kMean;
    bool is_bidirectional = false;  // does a token see the ones after it?
    AdapterKind adapter = AdapterKind::kMlp;
    int64_t n_adapter_layers = 0;  // that attend
    int64_t encoder_width = 0, decoder_width = 0;
    /// In the decoder's vocabulary: what stands before and behind a region's latents, and in the
    /// place of each. None of them is ever written. -1: the file gives rows for the tags instead.
    TokenId start = -1, end = -1, slot = -1;
    TokenId marker = -1;  // in the encoder's, of kEos

    /// Values of a group before the adapter.
    [[nodiscard]] int64_t pooled_width() const {
        return pooling == Pooling::kConcat ? ratio * encoder_width : encoder_width;
    }
    /// Is a latent final once its group's last token was read?
    [[nodiscard]] bool is_final_at_group() const {
        return !is_bidirectional && pooling != Pooling::kEos && n_adapter_layers == 0;
    }
};

/// Reads `lclm.*`. Throws kNotFound for a missing key, kCorrupt for a value that cannot be,
/// kUnsupported for another version.
[[nodiscard]] CompressionForm read_compression_form(const GgufFile& file);

/// Writes what read_compression_form() reads.
void describe(const CompressionForm& form, GgufWriter& to);

// Names as files have them.
[[nodiscard]] std::string_view to_string(Pooling pooling);
[[nodiscard]] std::string_view to_string(AdapterKind kind);
/// Throw kUnsupported, listing the names there are.
[[nodiscard]] Pooling pooling_named(std::string_view name);
[[nodiscard]] AdapterKind adapter_kind_named(std::string_view name);
/// "causal" or "bidirectional"
[[nodiscard]] bool is_bidirectional_named(std::string_view name);
/// Throws kCorrupt unless all parts fit together.
void check_compression_form(const CompressionForm& form);

/// One run of the encoder. Its input are tokens of one region and, for kEos, markers behind them.
struct EncoderWindow {
    int64_t first = 0;       // of its input, in the region; the overlap before it included
    int64_t n_tokens = 0;    // read of the region
    int64_t pool_begin = 0;  // where in the input the tokens begin that are pooled
    int64_t n_pooled = 0;
    int64_t n_latents = 0;  // and as many markers, for kEos

    [[nodiscard]] int64_t n_rows(const CompressionForm& form) const {
        return n_tokens + (form.pooling == Pooling::kEos ? n_latents : 0);
    }
};

[[nodiscard]] int64_t count_latents(const CompressionForm& form, int64_t n_tokens);
/// Of a region of n tokens, in order; no window crosses its ends.
[[nodiscard]] std::vector<EncoderWindow> windows_of(const CompressionForm& form, int64_t n_tokens);
/// How many of the region's tokens each latent stands for.
[[nodiscard]] std::vector<int32_t> latent_lengths(const CompressionForm& form, int64_t n_tokens);

}  // namespace palimpsest
