#pragma once

#include <cstdint>

#include "core/graph.h"
#include "memory/attention/attention.h"
#include "memory/attention/entry_store.h"
#include "memory/context_memory.h"

namespace palimpsest {

/// The memory of an encoder: each step is a text of its own, and what one layer has stored gives
/// way to the next layer's. It holds the keys and values of one layer of one step, however many
/// layers there are and however much was read.
class WindowMemory final : public ContextMemory, private EntrySource {
 public:
    /// `n_most`: positions of the longest step. `backend` must outlive the object. Throws
    /// kUnsupported for layers that this cannot serve.
    WindowMemory(const Backend& backend, const MemoryShape& shape, int64_t n_most,
                 bool is_bidirectional);

    uint64_t plan(const Step& step) override;
    Tensor attend(Graph& g, const AttentionInputs& in) override;
    void settle(const Step& /*step*/) override {}
    void reset() override {}
    [[nodiscard]] MemoryUsage usage() const override;
    [[nodiscard]] MemoryReport report() const override;

 private:
    // Whatever the layer, its entries lie in the same place.
    void store(int64_t layer, int64_t head, int64_t i, const float* k,
               const float* v) noexcept override;
    [[nodiscard]] EntryRows rows(int64_t layer, int64_t head) const noexcept override;
    [[nodiscard]] SlotRange visible(int64_t layer, int64_t head, int64_t i) const noexcept override;

    MemoryShape shape_;
    int64_t n_most_;
    bool is_bidirectional_;
    EntryStore entries_;
    AttentionScratch scratch_;
    int64_t n_ = 0;  // positions of the running step
};

}  // namespace palimpsest
