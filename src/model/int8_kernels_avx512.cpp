// Integer products for AVX-512 VNNI.

#include "model/int8_kernels.h"

#ifdef PALIMPSEST_INT8

#include <hwy/base.h>
#include <immintrin.h>

#include <utility>

#define PALIMPSEST_INT8_VECTORS "model/int8_vectors_avx512-inl.h"

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 is wrong about its own intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")

namespace palimpsest {

namespace {
#include "model/int8_kernel-inl.h"
}  // namespace

}  // namespace palimpsest

HWY_POP_ATTRIBUTES

namespace palimpsest {

const Int8Kernels kInt8Avx512 = {.needs = Instructions::kAvx512Vnni,
                                 .round = round_row,
                                 .rms_norm_row = norm_row,
                                 .few_bytes = few_bytes,
                                 .order_few = order_few,
                                 .types = kTypes};

}  // namespace palimpsest

#endif
