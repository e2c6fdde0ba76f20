#pragma once

#include <ggml.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>

#include "core/processor.h"
#include "model/int8_kernel.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define PALIMPSEST_INT8 1
#endif

namespace palimpsest {

/// What a stored type's products are made by.
struct Int8TypeKernels {
    ggml_type type;
    /// Features [0, count) of a stored matrix, whose rows lie `row_bytes` apart, and rows.
    void (*few)(const std::byte* w, int64_t row_bytes, int64_t count, const Int8FewRows& rows,
                const F32Rows& out);
    /// Bytes of a step of a tile.
    int64_t (*step_bytes)(int64_t inner);
    /// Puts features in order, in whole steps.
    void (*unpack)(const std::byte* w, int64_t row_bytes, int64_t count, int64_t inner,
                   std::byte* to);
    /// A step and rows, in groups of 16 and of 32.
    void (*multiply_16)(const std::byte* step, const Int8Rows& rows, const F32Rows& out);
    void (*multiply_32)(const std::byte* step, const Int8Rows& rows, const F32Rows& out);
};

/// The integer products of one set of instructions. All sets give the same bits.
struct Int8Kernels {
    Instructions needs;
    void (*round)(const float* x, int64_t first, int64_t count, int64_t inner, RowGroups groups,
                  std::byte* row);
    void (*rms_norm_row)(const float* x, const float* weight, int64_t n, float epsilon, float* to);
    int64_t (*few_bytes)(int64_t n, int64_t inner);
    void (*order_few)(const Int8Rows& rows, std::byte* to);
    std::span<const Int8TypeKernels> types;

    /// nullptr where the type is not known.
    [[nodiscard]] const Int8TypeKernels* find(ggml_type type) const;
};

/// Those this build has, the fastest first, whatever the processor.
[[nodiscard]] std::span<const Int8Kernels* const> all_int8_kernels();

// One file each.
extern const Int8Kernels kInt8Avx512;
extern const Int8Kernels kInt8AvxVnni;
extern const Int8Kernels kInt8Avx2;

}  // namespace palimpsest
