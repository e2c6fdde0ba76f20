#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "compress/latent_encoder.h"
#include "core/types.h"

namespace palimpsest {

/// Latents on disk, window by window, by the text that they were made of and the files that made
/// them. What is damaged is made anew.
class LatentCache {
 public:
    /// Makes the folder if need be, and removes the oldest latents of more than kMostBytes. Throws
    /// kUnwritable.
    explicit LatentCache(std::string folder, const LatentEncoder& encoder);

    /// Of a window, whichever region it is in; empty if there are none.
    [[nodiscard]] std::vector<float> find(const std::string& key);
    void keep(const std::string& key, std::span<const float> latents);
    [[nodiscard]] std::string key_of(std::span<const TokenId> region,
                                     const EncoderWindow& window) const;

    [[nodiscard]] size_t bytes() const { return bytes_; }

 private:
    static constexpr size_t kMostBytes = size_t{1} << 30;

    void make_room() const;
    [[nodiscard]] std::string path_of(const std::string& key) const;

    std::string folder_;
    std::string maker_;  // who made them
    size_t row_bytes_;
    size_t bytes_ = 0;
};

/// What one encoder did, for all regions.
struct LatentWork {
    int64_t tokens_encoded = 0, tokens_found = 0, latents = 0;
    double encoding_s = 0;
};

/// The latents of one region, made as they are read: the encoder is as far ahead as a batch of
/// windows, and what was read is forgotten. An adapter that attends needs the whole region at once.
class LatentRows final : public RowSource {
 public:
    /// What it is given must outlive it; `cache` may be nullptr.
    LatentRows(LatentEncoder& encoder, LatentCache* cache, LatentWork& work,
               std::vector<TokenId> region);

    [[nodiscard]] int64_t n_rows() const override;
    std::span<const float> rows(int64_t from, int64_t n) override;

 private:
    void encode_more();
    [[nodiscard]] bool take_from_cache();

    LatentEncoder& encoder_;
    LatentCache* cache_;
    LatentWork& work_;
    std::vector<TokenId> region_;
    std::vector<EncoderWindow> windows_;
    size_t next_ = 0;  // of windows_
    int64_t first_ = 0;
    std::vector<float> ready_;  // rows from first_ on
};

}  // namespace palimpsest
