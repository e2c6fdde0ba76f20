#include "compress/latent_regions.h"

#include "core/error.h"

namespace palimpsest {

namespace {

/// A token of the decoder's, or a row of the adapter's that stands for no text.
Segment tag(TokenId token, const std::vector<float>& row) {
    if (token >= 0) return {.tokens = {token}};
    return {.rows = row, .row_lengths = {0}};
}

}  // namespace

std::vector<Segment> LatentRegions::region(std::string_view document) const {
    const Tokenizer& t = maker_.encoder.model().require_tokenizer();
    return region_of(t.encode(on_lines_ ? cat("\n", document, "\n") : std::string(document)));
}

std::vector<Segment> LatentRegions::region_of(std::vector<TokenId> tokens) const {
    require(!tokens.empty(), "a region without tokens");
    const int64_t n_vocab = maker_.encoder.model().config().n_vocab;
    for (const TokenId t : tokens) {
        require(t >= 0 && t < n_vocab, "token ", t, " of a region is outside the encoder's ",
                n_vocab);
    }
    Segment latents;
    if (maker_.shares_tokens) {
        latents.row_tokens = tokens;
        latents.row_lengths = latent_lengths(form(), std::ssize(tokens));
    }
    latents.source =
        std::make_shared<LatentRows>(maker_.encoder, maker_.cache, maker_.work, std::move(tokens));
    const LatentAdapter& adapter = maker_.encoder.adapter();
    return {tag(form().start, adapter.start_row()), std::move(latents),
            tag(form().end, adapter.end_row())};
}

std::vector<TokenId> LatentRegions::never_written() const {
    std::vector<TokenId> ids;
    for (const TokenId t : {form().start, form().end, form().slot}) {
        if (t >= 0) ids.push_back(t);
    }
    return ids;
}

}  // namespace palimpsest
