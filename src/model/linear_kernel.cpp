#include "model/linear_kernel.h"

#include "memory/kernels/simd_targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/linear_kernel.cpp"
#include <hwy/foreach_target.h>
// Must follow foreach_target.
#include <hwy/highway.h>

#include "model/exponential-inl.h"

HWY_BEFORE_NAMESPACE();
namespace palimpsest::HWY_NAMESPACE {

struct Silu {
    HWY_INLINE LinearVector operator()(LinearVector x) const { return times_sigmoid(x, x); }
};

/// 1/2 x (1 + tanh(z)) = x sigmoid(2z), z = sqrt(2/pi) (x + 0.044715 x^3).
struct Gelu {
    HWY_INLINE LinearVector operator()(LinearVector x) const {
        const LinearVector cubic =
            hn::MulAdd(hn::Mul(x, x), hn::Set(kLinearF32, 0.044715F), hn::Set(kLinearF32, 1.0F));
        return times_sigmoid(x, hn::Mul(hn::Mul(x, cubic), hn::Set(kLinearF32, 1.59576912F)));
    }
};

struct ToBf16 {
    uint16_t* to;
    HWY_INLINE void operator()(LinearVector x, int64_t i) const {
        const hn::RebindToUnsigned<decltype(kLinearF32)> bits_tag;
        const hn::RebindToSigned<decltype(kLinearF32)> signed_tag;
        const hn::Rebind<uint16_t, decltype(kLinearF32)> half_tag;
        auto bits = hn::BitCast(bits_tag, x);
        const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(bits_tag, 1U));
        bits = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(bits_tag, 0x7FFFU)), odd));
        // What is no number would round to infinity, or wrap.
        bits = hn::IfThenElse(hn::RebindMask(bits_tag, hn::IsNaN(x)), hn::Set(bits_tag, 0x7FC0U),
                              bits);
        hn::StoreU(hn::DemoteTo(half_tag, hn::BitCast(signed_tag, bits)), half_tag, to + i);
    }
};

struct ToF32 {
    float* to;
    HWY_INLINE void operator()(LinearVector x, int64_t i) const {
        hn::StoreU(x, kLinearF32, to + i);
    }
};

/// store(value(i), i) for whole vectors; the last elements through copies.
template <class Value, class Store, class Element>
HWY_INLINE void for_elements(int64_t n, const float* a, const float* b, const Value& value,
                             const Store& store, Element* to) {
    const auto lanes = static_cast<int64_t>(hn::Lanes(kLinearF32));
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
        store(value(hn::LoadU(kLinearF32, a + i), hn::LoadU(kLinearF32, b + i)), i);
    }
    if (i == n) return;
    constexpr size_t kMost = HWY_MAX_BYTES / sizeof(float);
    float last_a[kMost] = {};
    float last_b[kMost] = {};
    Element last[kMost] = {};
    for (int64_t j = i; j < n; ++j) {
        last_a[j - i] = a[j];
        last_b[j - i] = b[j];
    }
    Store there = store;
    there.to = last;
    there(value(hn::LoadU(kLinearF32, last_a), hn::LoadU(kLinearF32, last_b)), 0);
    for (int64_t j = i; j < n; ++j) to[j] = last[j - i];
}

void round_impl(const float* from, int64_t n, uint16_t* to) {
    for_elements(
        n, from, from, [](LinearVector x, LinearVector) HWY_ATTR { return x; }, ToBf16{to}, to);
}

template <class Store, class Element>
HWY_INLINE void gate(Gating f, const float* g, const float* up, int64_t n, const Store& store,
                     Element* to) {
    if (f == Gating::kSilu) {
        for_elements(
            n, g, up, [](LinearVector x, LinearVector y) HWY_ATTR { return hn::Mul(Silu()(x), y); },
            store, to);
    } else {
        for_elements(
            n, g, up, [](LinearVector x, LinearVector y) HWY_ATTR { return hn::Mul(Gelu()(x), y); },
            store, to);
    }
}

void gate_bf16_impl(Gating f, const float* g, const float* up, int64_t n, uint16_t* to) {
    gate(f, g, up, n, ToBf16{to}, to);
}

void gate_f32_impl(Gating f, const float* g, const float* up, int64_t n, float* to) {
    gate(f, g, up, n, ToF32{to}, to);
}

}  // namespace palimpsest::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace palimpsest {

HWY_EXPORT(round_impl);
HWY_EXPORT(gate_bf16_impl);
HWY_EXPORT(gate_f32_impl);

void round_to_bf16(const float* from, int64_t n, uint16_t* to) {
    HWY_DYNAMIC_DISPATCH(round_impl)(from, n, to);
}

void gate_to_bf16(Gating f, const float* gate, const float* up, int64_t n, uint16_t* to) {
    HWY_DYNAMIC_DISPATCH(gate_bf16_impl)(f, gate, up, n, to);
}

void gate_to_f32(Gating f, const float* gate, const float* up, int64_t n, float* to) {
    HWY_DYNAMIC_DISPATCH(gate_f32_impl)(f, gate, up, n, to);
}

}  // namespace palimpsest
#endif
