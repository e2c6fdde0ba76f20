#pragma once

#include <ggml.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace palimpsest {

/// Stored keys and values of one KV head, slot after slot; slot 0 is the first byte. Up to 64 bytes
/// past the last row must be readable: rows are read in whole vectors.
struct EntryRows {
    ggml_type type = GGML_TYPE_F16;  // F32, F16 or Q8_0
    const std::byte* k = nullptr;
    const std::byte* v = nullptr;
    size_t row_bytes = 0;  // of one key, and of one value
    int64_t d = 0;         // values in a row: d_head
};

/// Slots [begin, end).
struct SlotRange {
    int64_t begin = 0, end = 0;
};

/// One query of one head, and the slots it may see: [begin, end).
struct QueryRow {
    const float* q = nullptr;  // d values
    float* out = nullptr;      // d values: the softmax-weighted mean of the visible values
    float* lse = nullptr;      // natural log of the sum of exp(scaled logits); may be nullptr
    int64_t begin = 0, end = 0;
};

/// Attention over a part of the slots, not yet divided by its weight, so that parts can be joined.
/// Logits are in units of log 2: weight = sum of exp2(logit - peak).
struct PartialRow {
    float peak = 0, weight = 0;
    float* sum = nullptr;  // d values: sum of exp2(logit - peak) * value
};

/// Online-softmax attention for the CPU, at the widest vectors the processor has (chosen when
/// first called). All pointers must stay valid during the call; nothing is allocated.
///
/// The head size must be a multiple of kHeadAlignment and at most kMaxHead.
inline constexpr int64_t kHeadAlignment = 8;
inline constexpr int64_t kMaxHead = 512;

/// Rows that attend_rows() takes at once.
inline constexpr int64_t kMaxRows = 96;

/// Slots that attend_part() takes at once.
inline constexpr int64_t kMaxPart = 4096;

/// f32 values of scratch memory that either function needs, for head size d and at most
/// `n_group` rows a part. Start it at a multiple of 64 bytes.
[[nodiscard]] size_t attention_scratch_floats(int64_t d, int64_t n_group);

/// Many queries against one head's entries: vectors run over queries. For prefill.
void attend_rows(const EntryRows& entries, std::span<const QueryRow> rows, float scale,
                 float* scratch);

/// The same in bf16 with f32 sums: twice as fast, and no further from exact than products of
/// rounded weights are. A row's answer does not depend on the rows beside it. Only where
/// has_bf16_attention(): the processor has AVX-512's bf16 instructions.
void attend_rows_bf16(const EntryRows& entries, std::span<const QueryRow> rows, float scale,
                      float* scratch);
[[nodiscard]] bool has_bf16_attention();

/// A few queries against slots that all of them see: vectors run over a head's
/// channels. For decoding. rows[r] answers to parts[r]; rows' own ranges are not looked at.
/// Returns false, having done nothing, if d is no multiple of the vector length.
bool attend_part(const EntryRows& entries, std::span<const QueryRow> rows, SlotRange slots,
                 float scale, std::span<PartialRow> parts, float* scratch);

/// Name of the instruction set in use, e.g. "AVX3".
[[nodiscard]] const char* attention_target();

/// Keeps all kernels that Highway chooses among within what may be used (core/processor.h). To be
/// called before any of them.
void limit_kernels();

}  // namespace palimpsest
