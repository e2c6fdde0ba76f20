#include "train/example_layer.h"

#include <algorithm>
#include <cmath>

namespace palimpsest {

namespace {

std::vector<float> as_floats(const std::vector<ggml_fp16_t>& halves) {
    std::vector<float> out(halves.size());
    ggml_fp16_to_fp32_row(halves.data(), out.data(), std::ssize(halves));
    return out;
}

}  // namespace

AttentionShape attention_shape(const MemoryShape& shape) {
    return {.n_embd = shape.n_embd,
            .n_head = shape.n_head,
            .n_head_kv = shape.n_head_kv,
            .d_head = shape.d_head,
            .scale = 1.0F / std::sqrt(static_cast<float>(shape.d_head))};
}

ExampleLayer::ExampleLayer(const Example& of, int64_t layer, const AttentionShape& shape,
                           int64_t n_prompt) {
    const LayerExample& from = of.layers.at(static_cast<size_t>(layer));
    hidden_ = as_floats(from.hidden);
    q_raw_ = as_floats(from.q_raw);
    q_ = as_floats(from.q);
    k_ = as_floats(from.k);
    v_ = as_floats(from.v);
    record_ = {.shape = shape,
               .n = of.n,
               .n_prompt = n_prompt,
               .hidden = hidden_,
               .q_raw = q_raw_,
               .q = q_,
               .k = k_,
               .v = v_};
    record_.check();
}

uint64_t example_key(const Example& of) {
    // FNV-1a, of 16 bits at a time.
    uint64_t hash = 0xcbf29ce484222325ULL;
    for (const LayerExample& layer : of.layers) {
        for (const ggml_fp16_t x : layer.hidden) hash = (hash ^ x) * 0x100000001b3ULL;
        if (!layer.hidden.empty()) break;
    }
    return hash;
}

std::vector<std::pair<const Example*, int64_t>> documents_of(std::span<const Block> blocks) {
    std::vector<std::pair<const Example*, int64_t>> all;
    for (const Block& b : blocks) {
        const auto known = std::ranges::find(all, b.of, &std::pair<const Example*, int64_t>::first);
        if (known == all.end()) {
            all.emplace_back(b.of, 1);
        } else {
            ++known->second;
        }
    }
    return all;
}

}  // namespace palimpsest
