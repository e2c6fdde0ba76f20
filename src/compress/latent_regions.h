#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "compress/latent_rows.h"
#include "text/regions.h"

namespace palimpsest {

/// What makes latents, and what it did.
struct LatentMaker {
    LatentEncoder& encoder;
    LatentCache* cache = nullptr;
    LatentWork& work;
    /// Are the encoder's tokens the decoder's first ones? If not, it is not known what latents
    /// stand for.
    bool shares_tokens = false;
};

/// A document as its latents, between the adapter's tags.
class LatentRegions final : public Regions {
 public:
    /// `owner` keeps alive what `maker` refers to. `on_lines`: a document stands on lines of its
    /// own between the tags, as whole documents do when models are trained for this; chunks do not.
    LatentRegions(std::shared_ptr<const void> owner, const LatentMaker& maker, bool on_lines = true)
        : owner_(std::move(owner)), maker_(maker), on_lines_(on_lines) {}

    [[nodiscard]] std::vector<Segment> region(std::string_view document) const override;
    /// The same of the encoder's tokens. Throws kInvalidArgument if there are none, or one that it
    /// does not have.
    [[nodiscard]] std::vector<Segment> region_of(std::vector<TokenId> tokens) const;
    [[nodiscard]] std::vector<TokenId> never_written() const override;

    [[nodiscard]] LatentEncoder& encoder() const { return maker_.encoder; }

 private:
    [[nodiscard]] const CompressionForm& form() const { return maker_.encoder.form(); }

    std::shared_ptr<const void> owner_;
    LatentMaker maker_;
    bool on_lines_;
};

}  // namespace palimpsest
