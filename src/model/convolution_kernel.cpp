#include "model/convolution_kernel.h"

#include <cstring>

#include "memory/kernels/simd_targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/convolution_kernel.cpp"
#include <hwy/foreach_target.h>
// Must follow foreach_target.
#include <hwy/highway.h>

#include "model/exponential-inl.h"

HWY_BEFORE_NAMESPACE();
namespace palimpsest::HWY_NAMESPACE {

/// A vector of channels, whose values `load` takes from rows and `store` puts into them.
template <class Load, class Store>
HWY_INLINE void convolve_vector(const ConvolutionRun& r, int64_t c, const Load& load,
                                const Store& store) {
    const LinearVector bias = r.bias == nullptr ? hn::Zero(kLinearF32) : load(r.bias + c);
    for (int64_t t = 0; t < r.n; ++t) {
        LinearVector sum = bias;
        for (int64_t j = 0; j < r.n_taps; ++j) {
            sum = hn::MulAdd(load(r.taps + j * r.taps_step + c),
                             load(r.in + (t + j) * r.in_step + c), sum);
        }
        store(times_sigmoid(sum, sum), r.out + t * r.out_step + c);
    }
}

void Convolve(const ConvolutionRun& r) {
    const auto lanes = static_cast<int64_t>(hn::Lanes(kLinearF32));
    const int64_t end = r.first + r.n_channels;
    int64_t c = r.first;
    for (; c + lanes <= end; c += lanes) {
        convolve_vector(
            r, c, [](const float* p) HWY_ATTR { return hn::LoadU(kLinearF32, p); },
            [](LinearVector v, float* p) HWY_ATTR { hn::StoreU(v, kLinearF32, p); });
    }
    if (c == end) return;
    // The last few, by way of whole vectors.
    const size_t rest = static_cast<size_t>(end - c) * sizeof(float);
    convolve_vector(
        r, c,
        [rest](const float* p) HWY_ATTR {
            float whole[HWY_MAX_BYTES / sizeof(float)] = {};
            std::memcpy(whole, p, rest);
            return hn::LoadU(kLinearF32, whole);
        },
        [rest](LinearVector v, float* p) HWY_ATTR {
            float whole[HWY_MAX_BYTES / sizeof(float)] = {};
            hn::StoreU(v, kLinearF32, whole);
            std::memcpy(p, whole, rest);
        });
}

}  // namespace palimpsest::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace palimpsest {

namespace {

HWY_EXPORT(Convolve);

}  // namespace

void convolve(const ConvolutionRun& run) { HWY_DYNAMIC_DISPATCH(Convolve)(run); }

}  // namespace palimpsest
#endif
