// The exponential and what is made of it, by the widest vectors. Included by kernels of this folder
// only, inside Highway's loop over targets.

#if defined(PALIMPSEST_EXPONENTIAL_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef PALIMPSEST_EXPONENTIAL_INL
#undef PALIMPSEST_EXPONENTIAL_INL
#else
#define PALIMPSEST_EXPONENTIAL_INL
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace palimpsest::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr hn::ScalableTag<float> kLinearF32;
using LinearVector = hn::Vec<decltype(kLinearF32)>;

/// e^x, relative error below 3e-7 for |x| <= 87, and within those bounds beyond.
HWY_INLINE LinearVector exponential(LinearVector x) {
    const hn::RebindToSigned<decltype(kLinearF32)> whole_tag;
    const auto set = [](float value) HWY_ATTR { return hn::Set(kLinearF32, value); };
    x = hn::Min(hn::Max(x, set(-87.0F)), set(87.0F));
    const auto whole = hn::NearestInt(hn::Mul(x, set(1.44269504F)));
    const LinearVector n = hn::ConvertTo(kLinearF32, whole);
    // ln 2 in two parts, so that x - n ln 2 is exact.
    LinearVector f = hn::NegMulAdd(n, set(0.693359375F), x);
    f = hn::NegMulAdd(n, set(-2.12194440e-4F), f);
    LinearVector p = set(1.0F / 5040);
    p = hn::MulAdd(p, f, set(1.0F / 720));
    p = hn::MulAdd(p, f, set(1.0F / 120));
    p = hn::MulAdd(p, f, set(1.0F / 24));
    p = hn::MulAdd(p, f, set(1.0F / 6));
    p = hn::MulAdd(p, f, set(0.5F));
    p = hn::MulAdd(p, f, set(1.0F));
    p = hn::MulAdd(p, f, set(1.0F));
    const auto power = hn::ShiftLeft<23>(hn::Add(whole, hn::Set(whole_tag, 127)));
    return hn::Mul(p, hn::BitCast(kLinearF32, power));
}

/// x / (1 + e^-y)
HWY_INLINE LinearVector times_sigmoid(LinearVector x, LinearVector y) {
    const LinearVector one = hn::Set(kLinearF32, 1.0F);
    return hn::Div(x, hn::Add(one, exponential(hn::Neg(y))));
}

}  // namespace palimpsest::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
