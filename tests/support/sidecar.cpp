#include "support/sidecar.h"

#include "support/golden.h"

namespace palimpsest::testing {

GgufBuilder small_sidecar(const MemoryShape& shape) {
    constexpr uint64_t kHeads = 2;
    constexpr uint64_t kWidth = 8;
    constexpr uint64_t kFeatures = 6;
    constexpr uint64_t kMiddle = 12;
    GgufBuilder f;
    f.set_text("general.architecture", "evict");
    f.set_text("evict.channel_order", shape.rotation.adjacent ? "pairs" : "half_split");
    f.set("evict.block_count", static_cast<uint32_t>(shape.n_layer));
    f.set("evict.sink_count", uint32_t{4});
    f.set("evict.indexer.head_count", static_cast<uint32_t>(kHeads));
    f.set("evict.indexer.key_length", static_cast<uint32_t>(kWidth));
    f.set("evict.memory.feature_length", static_cast<uint32_t>(kFeatures));
    f.set_bool("evict.memory.clip", true);
    f.set("evict.gate.mid_length", static_cast<uint32_t>(kMiddle));
    const auto n_embd = static_cast<uint64_t>(shape.n_embd);
    const auto d = static_cast<uint64_t>(shape.d_head);
    const auto n_kv = static_cast<uint64_t>(shape.n_head_kv);
    for (int64_t i = 0; i < shape.n_layer; ++i) {
        const std::string block = "blk." + std::to_string(i) + ".";
        f.add_f32(block + "indexer_q.weight",
                  {static_cast<uint64_t>(shape.n_head) * d, kHeads * kWidth});
        f.add_f32(block + "indexer_k.weight", {n_embd, kWidth});
        f.add_f32(block + "indexer_head.weight", {n_embd, kHeads});
        f.add_f32(block + "indexer_q_norm.weight", {kWidth});
        f.add_f32(block + "indexer_k_norm.weight", {kWidth});
        f.add_f32(block + "memory_phi.weight", {d, kFeatures});
        f.add_f32(block + "memory_gate.logit", {1});
        f.add_f32(block + "memory_decay.logit", {1});
        f.add_f32(block + "gate_norm.weight", {n_embd});
        f.add_f32(block + "gate_norm.bias", {n_embd});
        f.add_f32(block + "gate_in.weight", {n_embd, kMiddle});
        f.add_f32(block + "gate_mid_norm.weight", {kMiddle});
        f.add_f32(block + "gate_mid_norm.bias", {kMiddle});
        f.add_f32(block + "gate_magnitude.weight", {kMiddle, n_kv});
        f.add_f32(block + "gate_magnitude.bias", {n_kv});
        f.add_f32(block + "gate_retention.weight", {kMiddle, n_kv});
        f.add_f32(block + "gate_retention.bias", {n_kv});
    }
    return f;
}

namespace {

std::shared_ptr<const EvictionWeights> loaded(const GgufBuilder& sidecar,
                                              const MemoryShape& shape) {
    static const Backend kBackend(1);
    const TemporaryFile file(sidecar.bytes());
    return std::make_shared<const EvictionWeights>(file.path(), kBackend, shape, BaseModel{});
}

}  // namespace

std::shared_ptr<const EvictionWeights> small_weights(const MemoryShape& shape) {
    return loaded(small_sidecar(shape), shape);
}

GgufBuilder small_softmax_sidecar(const MemoryShape& shape) {
    constexpr uint64_t kFeatures = 6;
    GgufBuilder f;
    f.set_text("general.architecture", "evict");
    f.set_text("evict.channel_order", shape.rotation.adjacent ? "pairs" : "half_split");
    f.set("evict.block_count", static_cast<uint32_t>(shape.n_layer));
    f.set_text("evict.memory.form", "softmax");
    f.set("evict.memory.feature_length", static_cast<uint32_t>(kFeatures));
    const auto d = static_cast<uint64_t>(shape.d_head);
    const uint64_t n_row = kFeatures * static_cast<uint64_t>(shape.n_head_kv);
    for (int64_t i = 0; i < shape.n_layer; ++i) {
        const std::string block = "blk." + std::to_string(i) + ".";
        f.add_f32(block + "memory_key.weight", {d, n_row});
        f.add_f32(block + "memory_key.bias", {n_row});
        f.add_f32(block + "memory_query.weight", {d, n_row});
        f.add_f32(block + "memory_query.bias", {n_row});
    }
    return f;
}

std::shared_ptr<const EvictionWeights> small_softmax_memory(const MemoryShape& shape) {
    return loaded(small_softmax_sidecar(shape), shape);
}

}  // namespace palimpsest::testing
