#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "train/indexer/indexer_net.h"

namespace palimpsest {

/// Which queries teach the indexer about which keys, and how their attention is pooled.
enum class IndexerForm {
    kLabelled,  // the response's about the prompt's: attention, mean over heads, max over queries
    kAllPairs,  // all causal pairs, pooled the same way
    kLogitMax,  // all causal pairs: softmax of the largest logit over heads and queries
};

/// What an indexer is taught: all keys but those that stay whatever it says, and one importance for
/// each group of KV heads.
struct IndexerLesson {
    int64_t n_sink = 0, n_recent = 0;  // first and last keys, of the prompt if there is one
    int64_t n_group = 1;
};

/// How an importance that is not the teacher's is counted.
enum class IndexerLoss {
    kDivergence,  // of the spreads over the keys (section 3.1 of the paper)
    kCuts,        // by the sides of cuts that keys are on (ours)
    kLogs,        // as a gate's: logarithms, which compare across heads and layers (ours)
};

/// What the frozen model says of one layer of one document: how attention is spread over the keys.
/// Does not depend on the indexer: computed once.
struct IndexerTarget {
    Looking at;
    int64_t n_group = 1;
    std::vector<float> share;  // [n_group][at.n_keys()]; those of a group sum to 1
    double divisor = 1;        // of the divergence
    /// Of a repetition: logarithms of the scores [n_group][at.n_keys()], and where a cache of all
    /// layers and heads is cut; empty: there was none.
    std::vector<float> logs, cuts;
};

/// A group's importance is taught by the query heads that share its KV heads. Throws
/// kInvalidArgument if the lesson leaves no key, or nobody asks. A prompt no longer than the sinks
/// is taught by all pairs, as the released code does.
IndexerTarget indexer_target(const LayerRecord& record, IndexerForm form,
                             const IndexerLesson& lesson);

/// The same where a repetition of the whole document is the response: each key's share in the
/// roots of `scores` [n][n_head_kv], the largest weight that the repetition pays to each entry
/// (Example::scores), of which the largest over a group's heads counts. The divergence is spent
/// where shares are large, and without the root on a few keys that any cut keeps; a key that one
/// head needs must stay for all that share its importance. Those who ask the indexer are the
/// document's own queries, as when a prompt has been read and is cut. `cuts`: Example::cuts. Throws
/// kInvalidArgument if the lesson leaves no key.
IndexerTarget repetition_target(std::span<const float> scores, int64_t n_head_kv,
                                const IndexerLesson& lesson, std::span<const float> cuts = {});

/// The loss of a layer, mean over the groups; adds `weight` times its gradient to `gradient`.
/// Returns the loss, without the weight.
///
/// kDivergence: Kullback-Leibler, of the student's spread, softmax of the importance, from the
/// target's, over its divisor (section 3.1 of the paper; the released code's forms).
///
/// kCuts: for each of kCutShares, where a share c of the n keys stays, the mean logistic loss of
/// x - b against whether the key is among the teacher's best c n; the cut b is where the student
/// itself keeps as many, sum_t sigmoid(x_t - b) = c n, which is where this loss is least in b. Only
/// the teacher's order matters.
///
/// kLogs: the mean of gate_loss(), which needs a repetition: throws kInvalidArgument without one.
double indexer_loss(const IndexerNet& net, const IndexerTarget& target, IndexerLoss kind,
                    float weight, const IndexerParts<float>& gradient);

/// The same without a gradient.
double indexer_loss(const IndexerNet& net, const IndexerTarget& target,
                    IndexerLoss kind = IndexerLoss::kDivergence);

}  // namespace palimpsest
