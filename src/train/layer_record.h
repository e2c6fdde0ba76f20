#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace palimpsest {

/// What attention works on in a layer.
struct AttentionShape {
    int64_t n_embd = 0, n_head = 0, n_head_kv = 0, d_head = 0;
    float scale = 1.0F;  // of the logits

    [[nodiscard]] int64_t group() const { return n_head / n_head_kv; }
    [[nodiscard]] int64_t n_query_channels() const { return n_head * d_head; }
};

/// What one layer of the frozen model saw of one document. Views; the caller owns the numbers.
/// The first `n_prompt` tokens are what is to be remembered, the others read it.
struct LayerRecord {
    AttentionShape shape;
    int64_t n = 0, n_prompt = 0;
    std::span<const float> hidden;  // [n][n_embd], the block's input after its norm
    std::span<const float> q_raw;   // [n][n_head][d_head], before RoPE
    std::span<const float> q;       // [n][n_head][d_head], after RoPE
    std::span<const float> k;       // [n][n_head_kv][d_head], after RoPE
    std::span<const float> v;       // [n][n_head_kv][d_head]

    /// Throws kInvalidArgument unless spans and counts belong together and 1 <= n_prompt <= n.
    void check() const;

    /// The first `n_first` tokens of it, of which the first `n_prompt_of_them` are the prompt.
    [[nodiscard]] LayerRecord first(int64_t n_first, int64_t n_prompt_of_them) const;

    [[nodiscard]] const float* query(int64_t token, int64_t head) const {
        return q.data() + (token * shape.n_head + head) * shape.d_head;
    }
    [[nodiscard]] const float* key(int64_t token, int64_t head_kv) const {
        return k.data() + (token * shape.n_head_kv + head_kv) * shape.d_head;
    }
    [[nodiscard]] const float* value(int64_t token, int64_t head_kv) const {
        return v.data() + (token * shape.n_head_kv + head_kv) * shape.d_head;
    }
};

/// Rows of one head, such as record.key, of some tokens, one after another: [tokens][d_head].
std::vector<float> rows_of_head(std::span<const int32_t> tokens, const LayerRecord& record,
                                const float* (LayerRecord::*row)(int64_t, int64_t) const,
                                int64_t head);

/// Scaled logits of `token`'s query `head` over keys [0, token]. Returns the largest.
float attention_logits(const LayerRecord& record, int64_t token, int64_t head,
                       std::span<float> logits);

/// The same, as a softmax.
void attention_weights(const LayerRecord& record, int64_t token, int64_t head,
                       std::span<float> weights);

}  // namespace palimpsest
