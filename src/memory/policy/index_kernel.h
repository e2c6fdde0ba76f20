#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "memory/policy/eviction_weights.h"

namespace palimpsest {

/// Keys of an indexer, row after row.
struct IndexKeys {
    const std::byte* rows = nullptr;  // [n][d], f16 or f32
    bool is_f16 = true;
    int64_t d = 0;  // values in a row: at most kMostIndexWidth
};

/// One query of an indexer: what it pays to rows [0, n_visible).
struct IndexQuery {
    const float* q = nullptr;      // [n_head][d]
    const float* alpha = nullptr;  // [n_head], signed
    int64_t n_visible = 0;
};

/// How the heads of an indexer are put together.
struct IndexForm {
    int64_t n_head = 0;
    Activation activation = Activation::kRelu;
};

/// importance[t - begin] = the largest of itself and, over all queries that see row t, of
/// sum_i alpha_i * act(q_i . k_t), for rows [begin, end). A score is computed the same way whatever
/// the range and the other queries, so any division of the work gives the same bits.
void raise_importance(const IndexKeys& keys, std::span<const IndexQuery> queries, IndexForm form,
                      int64_t begin, int64_t end, float* importance);

}  // namespace palimpsest
