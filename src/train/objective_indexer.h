#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "train/indexer_net.h"

namespace palimpsest {

/// Which queries teach the indexer about which keys, and how their attention is pooled.
enum class IndexerForm {
    kLabelled,  // the response's about the prompt's: attention, mean over heads, max over queries
    kAllPairs,  // all causal pairs, pooled the same way
    kLogitMax,  // all causal pairs: softmax of the largest logit over heads and queries
};

/// What the frozen model says of one layer of one document: how attention is spread over the keys
/// after the sinks. Does not depend on the indexer: computed once.
struct IndexerTarget {
    Looking at;
    std::vector<float> share;  // [at.n_keys()], sums to 1
    double divisor = 1;        // of the loss
};

/// Throws kInvalidArgument if no key is left after `n_sink`, or nobody asks. A prompt no longer
/// than the sinks is taught by all pairs, as the released code does.
IndexerTarget indexer_target(const LayerRecord& record, IndexerForm form, int64_t n_sink);

/// The same where a repetition of the whole document is the response: each key's share in the
/// roots of `scores` [n][n_head_kv], the largest weight that the repetition pays to each entry
/// (Example::scores), of which the largest over heads counts. The divergence is spent where shares
/// are large, and without the root on a few keys that any cut keeps; a key that one head needs must
/// stay for all. Those who ask the indexer are the document's own queries, as when a prompt has
/// been read and is cut. Throws kInvalidArgument if no key is left after `n_sink`.
IndexerTarget repetition_target(std::span<const float> scores, int64_t n_head_kv, int64_t n_sink);

/// The Kullback-Leibler divergence of the student's spread, softmax of the importance, from the
/// target's, over its divisor (section 3.1 of the paper; the released code's forms). Adds `weight`
/// times its gradient to `gradient`. Returns the loss, without the weight.
double indexer_loss(const IndexerNet& net, const IndexerTarget& target, float weight,
                    const IndexerParts<float>& gradient);

/// The same without a gradient.
double indexer_loss(const IndexerNet& net, const IndexerTarget& target);

}  // namespace palimpsest
