#pragma once

#include "memory/attention/attention.h"

namespace palimpsest {

/// Part of the past that is held beside the stored entries, and answers with them: joined in one
/// softmax, or added after it.
class JoinedPast {
 public:
    JoinedPast() = default;
    virtual ~JoinedPast() = default;
    JoinedPast(const JoinedPast&) = delete;
    JoinedPast& operator=(const JoinedPast&) = delete;

    /// Graph side: `attended` [d_head * n_head, n] with the answer to `in.q` joined or added. Once
    /// `attended` was computed, `scratch` has every query's lse over all that is in its softmax;
    /// whoever joins the softmax leaves there what it is afterwards, for those that come next.
    /// What is added after the softmax leaves it as it is. `scratch` outlives the graph.
    virtual Tensor join(Graph& g, const AttentionInputs& in, Tensor attended,
                        AttentionScratch& scratch) = 0;
};

}  // namespace palimpsest
