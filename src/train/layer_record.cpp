#include "train/layer_record.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "train/rows.h"

namespace palimpsest {

void LayerRecord::check() const {
    const AttentionShape& s = shape;
    require(s.n_head_kv >= 1 && s.d_head >= 1 && s.n_embd >= 1 && s.n_head % s.n_head_kv == 0,
            "a layer of ", s.n_head, " heads, ", s.n_head_kv, " of them for keys, of width ",
            s.d_head, " cannot be");
    require(n_prompt >= 1 && n_prompt <= n, "a prompt of ", n_prompt, " of ", n,
            " tokens; it must be at least 1 and at most all");
    const bool fits = std::ssize(hidden) == n * s.n_embd &&
                      std::ssize(q_raw) == n * s.n_query_channels() &&
                      std::ssize(q) == n * s.n_query_channels() &&
                      std::ssize(k) == n * s.n_head_kv * s.d_head && k.size() == v.size();
    require(fits, "what was recorded of a layer is not of its ", n, " tokens");
}

LayerRecord LayerRecord::first(int64_t n_first, int64_t n_prompt_of_them) const {
    const auto head = [&](std::span<const float> of) {
        return of.first(of.size() / static_cast<size_t>(n) * static_cast<size_t>(n_first));
    };
    return {.shape = shape,
            .n = n_first,
            .n_prompt = n_prompt_of_them,
            .hidden = head(hidden),
            .q_raw = head(q_raw),
            .q = head(q),
            .k = head(k),
            .v = head(v)};
}

std::vector<float> rows_of_head(std::span<const int32_t> tokens, const LayerRecord& record,
                                const float* (LayerRecord::*row)(int64_t, int64_t) const,
                                int64_t head) {
    const int64_t d = record.shape.d_head;
    std::vector<float> out;
    out.reserve(tokens.size() * static_cast<size_t>(d));
    for (const int32_t t : tokens) {
        const float* from = (record.*row)(t, head);
        out.insert(out.end(), from, from + d);
    }
    return out;
}

float attention_logits(const LayerRecord& record, int64_t token, int64_t head,
                       std::span<float> logits) {
    const float* q = record.query(token, head);
    const int64_t head_kv = head / record.shape.group();
    float largest = -std::numeric_limits<float>::infinity();
    for (int64_t t = 0; t <= token; ++t) {
        const float x =
            record.shape.scale * dot_rows(q, record.key(t, head_kv), record.shape.d_head);
        logits[static_cast<size_t>(t)] = x;
        largest = std::max(largest, x);
    }
    return largest;
}

void attention_weights(const LayerRecord& record, int64_t token, int64_t head,
                       std::span<float> weights) {
    const float largest = attention_logits(record, token, head, weights);
    const auto seen = weights.first(static_cast<size_t>(token) + 1);
    double sum = 0;
    for (float& w : seen) {
        w = std::exp(w - largest);
        sum += static_cast<double>(w);
    }
    const auto factor = static_cast<float>(1.0 / sum);
    for (float& w : seen) w *= factor;
}

}  // namespace palimpsest
