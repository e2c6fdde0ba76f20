#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/graph.h"
#include "memory/context_memory.h"
#include "memory/kernels/attention_kernel.h"

namespace palimpsest {

/// What fused attention asks of the memory whose entries it reads, at the time the graph runs.
class EntrySource {
 public:
    EntrySource() = default;
    virtual ~EntrySource() = default;
    EntrySource(const EntrySource&) = delete;
    EntrySource& operator=(const EntrySource&) = delete;

    /// Stores key and value i of the running step. Called from several threads, once per entry.
    virtual void store(int64_t layer, int64_t head, int64_t i, const float* k,
                       const float* v) noexcept = 0;
    [[nodiscard]] virtual EntryRows rows(int64_t layer, int64_t head) const noexcept = 0;
    /// What query i of the running step sees.
    [[nodiscard]] virtual SlotRange visible(int64_t layer, int64_t head,
                                            int64_t i) const noexcept = 0;
};

/// Values of one head and position of a tensor [d_head, heads, n].
[[nodiscard]] inline const float* head_row(const ggml_tensor* t, int64_t head, int64_t i) {
    return reinterpret_cast<const float*>(static_cast<const char*>(t->data) +
                                          static_cast<size_t>(head) * t->nb[1] +
                                          static_cast<size_t>(i) * t->nb[2]);
}

/// Memory that the threads of fused attention work in. One for each sequence; reused by all layers,
/// which run one after another.
class AttentionScratch {
 public:
    AttentionScratch(const MemoryShape& shape, int n_threads);
    /// Makes room for a step of n queries that see at most n_visible slots. Throws kExhausted.
    void prepare(int64_t n, int64_t n_visible);

    [[nodiscard]] float* of_thread(int thread) const;
    /// From the next step on, lse() is noted.
    void note_lse() { notes_lse_ = true; }
    /// Natural log of the sum of exp(scaled logits) of query i of the running step, set when the
    /// running layer was attended to; nullptr: it is not noted.
    [[nodiscard]] float* lse(int64_t head, int64_t i);
    /// Where part `index` of a decoding step leaves its sums, and their peak and weight.
    [[nodiscard]] PartialRow part_row(int64_t index, int64_t row) const;
    void keep_part(int64_t index, int64_t row, const PartialRow& part);
    [[nodiscard]] size_t bytes() const;

 private:
    MemoryShape shape_;
    int n_threads_;
    size_t floats_per_thread_;
    std::vector<float> thread_memory_;
    std::vector<float> sums_;
    std::vector<PartialRow> parts_;
    std::vector<float> lse_;  // [n_head][n_step_]
    int64_t n_step_ = 0;
    bool notes_lse_ = false;
};

/// Few enough queries for the decoding kernel, given heads that share entries in groups.
[[nodiscard]] bool is_decoding(const MemoryShape& shape, int64_t n);

/// Slots in a part of a decoding step: depends on the number of visible slots only, so that the
/// result does not depend on the number of threads.
[[nodiscard]] int64_t part_slots(int64_t n_visible);

/// Nodes that store the step's entries in `source` and answer `in.q` from it: [d_head * n_head, n].
/// Every query's lse is left in `scratch`. CPU only. `source` and `scratch` must outlive the graph.
Tensor fused_attention(Graph& g, const MemoryShape& shape, const AttentionInputs& in,
                       EntrySource& source, AttentionScratch& scratch);

/// The same from ggml's own nodes, on any device, over entries that already hold the step's own:
/// k, v [d_head, n_slots, 1, n_head_kv] of any type, mask [n_slots, n, 1, n_head_kv] f32 (0 or
/// -inf). The reference for the fused kernel.
Tensor reference_attention(Graph& g, const AttentionInputs& in, Tensor k, Tensor v, Tensor mask);

/// A node that leaves every query's lse in `scratch`, where the attention itself does not.
Tensor note_lse(Graph& g, const MemoryShape& shape, const AttentionInputs& in, EntrySource& source,
                AttentionScratch& scratch);

}  // namespace palimpsest
