#pragma once

#include <string_view>

namespace palimpsest {

/// Sets of instructions that kernels of our own are written for, each with what usually comes with
/// it.
enum class Instructions {
    kAvx2,        // and FMA, F16C
    kAvxVnni,     // kAvx2 and 8-bit products of 256 bits
    kAvx512Vnni,  // AVX-512 F, BW, DQ, VL and 8-bit products
    kAvx512Bf16,  // AVX-512 F, BW, DQ, VL and bf16 products
};

[[nodiscard]] std::string_view name_of(Instructions set);

/// Does the environment variable PALIMPSEST_PROCESSOR allow these? It names the newest generation
/// that may be used, none, avx2, avx-vnni or avx512: to measure, and to see whether a fault lies in
/// a kernel. Without it, or with anything else, all are allowed.
[[nodiscard]] bool may_use(Instructions set);
/// Has the processor these, and may they be used?
[[nodiscard]] bool processor_has(Instructions set);

}  // namespace palimpsest
