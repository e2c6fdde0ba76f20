#pragma once

#include <memory>
#include <vector>

#include "model/load.h"
#include "train/layer_record.h"

namespace palimpsest::testing {

/// Owns what one layer saw of one document, heads' channels in half-split order.
struct TappedLayer {
    AttentionShape shape;
    std::vector<float> hidden, q_raw, q, k, v;

    /// `n_prompt` of its tokens are the prompt.
    [[nodiscard]] LayerRecord record(int64_t n_prompt) const;
};

/// Runs a model over a document with full attention. One entry a layer.
std::vector<TappedLayer> tap_layers(const LoadedModel& model, Backend& backend,
                                    const std::vector<TokenId>& tokens);

/// A layer of random numbers.
TappedLayer random_layer(const AttentionShape& shape, int64_t n, uint32_t seed);

}  // namespace palimpsest::testing
