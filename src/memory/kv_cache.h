#pragma once

#include <memory>
#include <vector>

#include "memory/attention.h"
#include "memory/context_memory.h"
#include "memory/entry_store.h"

namespace palimpsest {

enum class AttentionPath {
    kFused,      // our kernel; CPU
    kReference,  // ggml's nodes; slow, for checking
};

struct KvCacheOptions {
    int64_t n_ctx = 0;                  // positions that fit; > 0
    ggml_type entries = GGML_TYPE_F16;  // f32, f16 or q8_0
    AttentionPath path = AttentionPath::kFused;
};

/// Softmax attention over stored keys and values. Keeps every entry, except in sliding-window
/// layers, which keep what the window can still see.
class KvCache final : public ContextMemory, private EntrySource {
 public:
    /// Throws kInvalidArgument for n_ctx < 1, kUnsupported as EntryStore does.
    KvCache(const Backend& backend, const MemoryShape& shape, const KvCacheOptions& options);

    uint64_t plan(const Step& step) override;
    Tensor attend(Graph& g, const AttentionInputs& in) override;
    void settle(const Step& step) override;
    void reset() override;
    [[nodiscard]] MemoryUsage usage() const override;
    void save(std::ostream& out) const override;
    void load(std::istream& in) override;

    /// Positions of the entries a head holds, ascending.
    [[nodiscard]] std::span<const int32_t> positions(int64_t layer, int64_t head) const;

 private:
    /// One KV head of one layer. Its entries lie in slots [begin, begin + positions.size()), in
    /// the order of their positions; so what a query sees is one run of slots.
    struct Head {
        int64_t begin = 0;
        std::vector<int32_t> positions;
    };

    void store(int64_t layer, int64_t head, int64_t i, const float* k,
               const float* v) noexcept override;
    [[nodiscard]] EntryRows rows(int64_t layer, int64_t head) const noexcept override;
    [[nodiscard]] SlotRange visible(int64_t layer, int64_t head, int64_t i) const noexcept override;

    [[nodiscard]] Head& head(int64_t layer, int64_t h);
    [[nodiscard]] const Head& head(int64_t layer, int64_t h) const;
    Tensor attend_reference(Graph& g, const AttentionInputs& in);
    void fill_slots(int64_t layer, std::span<std::byte> out) const;
    void fill_mask(int64_t layer, int64_t n_slots, std::span<std::byte> out) const;
    void slide(int64_t layer, int64_t h, int64_t next_pos);

    MemoryShape shape_;
    KvCacheOptions options_;
    EntryStore store_;
    AttentionScratch scratch_;
    std::vector<Head> heads_;    // [layer][head]
    Step step_;                  // the planned one
    int64_t slots_in_view_ = 0;  // reference path
    int64_t seen_ = 0;
};

}  // namespace palimpsest
