#pragma once

#include <llama-cpp.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/types.h"

namespace palimpsest {

struct PeerOptions {
    int64_t n_ctx = 0;
    int64_t n_chunk = 512;
    int n_threads = 1;
    bool flash_attention = true;
    bool f32_entries = false;  // else f16, libllama's default
};

/// libllama's own full model: what ours is compared with. Throws kUnsupported if it fails.
class Peer {
 public:
    Peer(const std::string& path, const PeerOptions& options);

    /// Reads tokens at the end of the sequence; logits() then speak of the next position.
    void feed(std::span<const TokenId> tokens);
    [[nodiscard]] std::span<const float> logits() const;
    /// Reads tokens and returns the logits of every one: n rows.
    std::vector<float> feed_for_all_logits(std::span<const TokenId> tokens);
    void reset();

 private:
    void decode(std::span<const TokenId> tokens, bool all_logits);

    PeerOptions options_;
    llama_model_ptr model_;
    llama_context_ptr context_;
    int64_t n_vocab_ = 0;
    int64_t position_ = 0;
};

}  // namespace palimpsest
