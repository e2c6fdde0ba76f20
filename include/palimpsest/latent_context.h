#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "palimpsest/engine.h"

#pragma GCC visibility push(default)

namespace palimpsest {

class LatentRegions;
class Regions;
class Runtime;

struct LatentOptions {
    /// An adapter file, or a folder that has some.
    std::string adapter = {};
    /// The encoder; empty: `encoder.gguf` beside the adapter.
    std::string encoder = {};
    /// Tokens in a latent, where a folder has adapters of several ratios; 0: the only one.
    int64_t ratio = 0;
    /// A folder where latents are kept and found again, window by window; empty: they are not.
    std::string cache = {};
};

/// What turns documents into latents, a few tokens into one, so that an engine reads several times
/// as much in the same memory: an encoder model and an adapter into the engine's embedding space.
/// Conversations that are given its regions read their documents so; questions stay text.
///
///     Engine engine({.model = "decoder.gguf"});
///     LatentContext latent(engine, {.adapter = "adapter.gguf"});
///     Conversation talk(engine, {.regions = latent.regions()});
class LatentContext {
 public:
    /// `engine` must outlive it and what was made of it. Throws Error: kNotFound, kCorrupt and
    /// kUnsupported for files, kInvalidArgument for parts that were not made for each other.
    LatentContext(const Engine& engine, const LatentOptions& options);
    ~LatentContext();
    LatentContext(LatentContext&&) noexcept;
    LatentContext& operator=(LatentContext&&) noexcept;
    LatentContext(const LatentContext&) = delete;
    LatentContext& operator=(const LatentContext&) = delete;

    /// For ConversationOptions. It lives as long as anybody has it.
    [[nodiscard]] std::shared_ptr<const Regions> regions() const;

    /// Tokens in a latent.
    [[nodiscard]] int64_t ratio() const;
    /// Where its parts were found.
    [[nodiscard]] const std::string& adapter_path() const;
    [[nodiscard]] const std::string& encoder_path() const;

    struct Usage {
        int64_t tokens_encoded = 0;  // by the encoder
        int64_t tokens_found = 0;    // whose latents were in the cache
        int64_t latents = 0;         // that came of both
        double encoding_s = 0;
        size_t encoder_bytes = 0;  // most that windows have taken
        size_t cache_bytes = 0;    // of latents written to and read from the cache folder
    };
    [[nodiscard]] Usage usage() const;

    /// For this project's own programs.
    LatentContext(const Runtime& runtime, const LatentOptions& options);
    [[nodiscard]] std::shared_ptr<const LatentRegions> latent_regions(bool on_lines) const;

 private:
    struct Parts;
    std::shared_ptr<Parts> parts_;
};

}  // namespace palimpsest

#pragma GCC visibility pop
