#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/graph.h"
#include "core/reserved_memory.h"
#include "memory/context_memory.h"
#include "memory/kernels/attention_kernel.h"

namespace palimpsest {

/// The same shape. Throws kUnsupported unless all layers attend, and are alike but for a window.
const MemoryShape& require_alike(const MemoryShape& shape);

/// Bytes of the keys and values of n positions, all layers: those with a window hold no more than
/// it sees.
[[nodiscard]] size_t bytes_of_all(const MemoryShape& shape, ggml_type type, int64_t n);

/// Keys and values of one sequence, per layer and KV head, in rows of f32, f16 or q8_0.
///
/// Every head owns a run of addresses for all its slots and takes memory only for the pages it has
/// written, so heads of uneven length cost their sum and shrinking gives bytes back. One layout
/// serves both readers: ggml sees a layer as [d_head, n_slots, 1, n_head_kv], a kernel of ours sees
/// one head's rows. Knows nothing of positions or of which slots are in use.
class EntryStore {
 public:
    /// Throws kUnsupported for another type or a head size that the type or the kernels cannot
    /// take.
    EntryStore(const MemoryShape& shape, ggml_type type, int64_t n_slots);

    [[nodiscard]] ggml_type type() const { return type_; }
    [[nodiscard]] int64_t n_slots() const { return n_slots_; }
    /// Of one key, and of one value.
    [[nodiscard]] size_t row_bytes() const { return row_bytes_; }

    /// One head's rows; slot 0 first.
    [[nodiscard]] EntryRows rows(int64_t layer, int64_t head) const;

    /// Converts and stores one f32 key and value of d_head values. Safe from several threads for
    /// different slots.
    void write(int64_t layer, int64_t head, int64_t slot, const float* k, const float* v) noexcept;

    /// Replaces one stored key, or value.
    void write_key(int64_t layer, int64_t head, int64_t slot, const float* k) noexcept;
    void write_value(int64_t layer, int64_t head, int64_t slot, const float* v) noexcept;

    /// Moves slot kept[i] to slot i, for ascending `kept`.
    void gather(int64_t layer, int64_t head, std::span<const int32_t> kept) noexcept;

    /// Moves slots [from, from + n) to the front, in order.
    void move_to_front(int64_t layer, int64_t head, int64_t from, int64_t n) noexcept;

    /// Gives back the memory of slots [from, n_slots).
    void release_from(int64_t layer, int64_t head, int64_t from) noexcept;

    /// Raw bytes of slots [from, from + n): of the keys, and of the values.
    [[nodiscard]] std::span<std::byte> key_bytes(int64_t layer, int64_t head, int64_t from,
                                                 int64_t n);
    [[nodiscard]] std::span<std::byte> value_bytes(int64_t layer, int64_t head, int64_t from,
                                                   int64_t n);
    [[nodiscard]] std::span<const std::byte> key_bytes(int64_t layer, int64_t head, int64_t from,
                                                       int64_t n) const;
    [[nodiscard]] std::span<const std::byte> value_bytes(int64_t layer, int64_t head, int64_t from,
                                                         int64_t n) const;

    /// Memory that a head takes which has written slots [0, n): keys and values, whole pages.
    [[nodiscard]] size_t bytes_of(int64_t n) const;

    /// The first n slots of a layer's keys or values: [d_head, n, 1, n_head_kv], no copy.
    [[nodiscard]] Tensor key_view(Graph& g, int64_t layer, int64_t n) const;
    [[nodiscard]] Tensor value_view(Graph& g, int64_t layer, int64_t n) const;

 private:
    [[nodiscard]] size_t offset(int64_t layer, int64_t head, int64_t slot) const;
    [[nodiscard]] Tensor view(Graph& g, Tensor base, int64_t n) const;
    void put(std::byte* to, const float* row) const noexcept;

    MemoryShape shape_;
    ggml_type type_;
    int64_t n_slots_;
    size_t row_bytes_;
    size_t head_bytes_;  // addresses a head owns for its keys, and as many for its values
    ReservedMemory k_memory_, v_memory_;
    std::vector<BorrowedStorage> borrowed_;  // keys, values
    std::vector<Tensor> k_, v_;              // a layer's addresses, as one row
    ggml_from_float_t from_float_;
};

}  // namespace palimpsest
