#pragma once

// Which instruction sets the kernels are compiled for. Scalable vectors cannot be array elements,
// which the register tiles are; the other targets left out differ from the ones kept in nothing
// used here. To be included before <hwy/foreach_target.h>.
#define HWY_DISABLED_TARGETS \
    (HWY_SSE4 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
