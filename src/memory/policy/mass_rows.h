#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

#include "memory/attention/attention.h"
#include "memory/kernels/scoring_kernel.h"

namespace palimpsest {

/// The n * group queries that read KV head h of a layer.
struct GroupQueries {
    const ggml_tensor* q;
    int64_t layer, h, group;
};

/// Rows [first, first + count) of them, with the lse that attention left.
struct MassRows {
    std::array<QueryRow, kMaxRows> rows;
    std::span<QueryRow> all;

    MassRows(const GroupQueries& of, EntrySource& source, AttentionScratch& scratch,
             int64_t first) {
        const auto [q, layer, h, group] = of;
        const int64_t n = q->ne[2];
        const int64_t count = std::min(kMaxRows, n * group - first);
        for (int64_t r = 0; r < count; ++r) {
            const int64_t i = (first + r) / group;
            const int64_t head = h * group + (first + r) % group;
            const SlotRange seen = source.visible(layer, h, i);
            rows.at(static_cast<size_t>(r)) = {.q = head_row(q, head, i),
                                               .out = nullptr,
                                               .lse = scratch.lse(head, i),
                                               .begin = seen.begin,
                                               .end = seen.end};
        }
        all = std::span(rows).first(static_cast<size_t>(count));
    }
};

}  // namespace palimpsest
