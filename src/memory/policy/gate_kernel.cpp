// The gate's network at inference: layer norm, a product, layer norm, GELU by its tanh form, and a
// number or two for every KV head (the successor of IndexMem; what it is for, in policy_gate.cpp).

#include "memory/policy/gate_kernel.h"

#include <algorithm>
#include <cmath>

#include "memory/kernels/match_kernel.h"
#include "memory/kernels/simd_targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "memory/policy/gate_kernel.cpp"
#include <hwy/foreach_target.h>
// Must follow foreach_target.
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace palimpsest::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr hn::ScalableTag<float> kGateF32;
using GateVector = hn::Vec<decltype(kGateF32)>;

constexpr size_t kMostGateLanes = HWY_MAX_BYTES / sizeof(float);

/// The next vector of `left` floats; what is past the end is zero.
HWY_INLINE GateVector next_of(const float* x, int64_t left) {
    if (left >= static_cast<int64_t>(hn::Lanes(kGateF32))) return hn::LoadU(kGateF32, x);
    HWY_ALIGN float copy[kMostGateLanes] = {};
    std::copy_n(x, left, copy);
    return hn::Load(kGateF32, copy);
}

HWY_INLINE void put(GateVector v, float* to, int64_t left) {
    if (left >= static_cast<int64_t>(hn::Lanes(kGateF32))) return hn::StoreU(v, kGateF32, to);
    HWY_ALIGN float copy[kMostGateLanes];
    hn::Store(v, kGateF32, copy);
    std::copy_n(copy, left, to);
}

/// Calls `take(i, vector)` along n floats.
template <class Take>
HWY_INLINE void along(const float* x, int64_t n, const Take& take) {
    const auto lanes = static_cast<int64_t>(hn::Lanes(kGateF32));
    for (int64_t i = 0; i < n; i += lanes) take(i, next_of(x + i, n - i));
}

void layer_norm_impl(const float* x, const LayerNorm& norm, float epsilon, float* to) {
    const auto n = static_cast<int64_t>(norm.weight.size());
    GateVector sum = hn::Zero(kGateF32);
    along(x, n, [&](int64_t /*i*/, GateVector v) { sum = hn::Add(sum, v); });
    const float mean = hn::GetLane(hn::SumOfLanes(kGateF32, sum)) / static_cast<float>(n);
    const GateVector centre = hn::Set(kGateF32, mean);
    GateVector squares = hn::Zero(kGateF32);
    along(x, n, [&](int64_t i, GateVector v) {
        const auto inside = hn::FirstN(kGateF32, static_cast<size_t>(n - i));
        const GateVector away = hn::IfThenElseZero(inside, hn::Sub(v, centre));
        squares = hn::MulAdd(away, away, squares);
    });
    const float variance = hn::GetLane(hn::SumOfLanes(kGateF32, squares)) / static_cast<float>(n);
    const GateVector inverse = hn::Set(kGateF32, 1.0F / std::sqrt(variance + epsilon));
    along(x, n, [&](int64_t i, GateVector v) {
        const GateVector weight = next_of(norm.weight.data() + i, n - i);
        const GateVector bias = next_of(norm.bias.data() + i, n - i);
        put(hn::MulAdd(hn::Mul(hn::Sub(v, centre), inverse), weight, bias), to + i, n - i);
    });
}

void gelu_impl(float* x, int64_t n) {
    const GateVector half = hn::Set(kGateF32, 0.5F);
    const GateVector one = hn::Set(kGateF32, 1.0F);
    const GateVector scale = hn::Set(kGateF32, 0.79788456F);  // sqrt(2 / pi)
    const GateVector cube = hn::Set(kGateF32, 0.044715F);
    along(x, n, [&](int64_t i, GateVector v) {
        const GateVector bent = hn::MulAdd(hn::Mul(cube, v), v, one);
        const GateVector t = hn::Tanh(kGateF32, hn::Mul(hn::Mul(scale, v), bent));
        put(hn::Mul(hn::Mul(half, v), hn::Add(one, t)), x + i, n - i);
    });
}

float dot_impl(const float* a, const float* b, int64_t n) {
    GateVector sum = hn::Zero(kGateF32);
    along(a, n, [&](int64_t i, GateVector v) { sum = hn::MulAdd(v, next_of(b + i, n - i), sum); });
    return hn::GetLane(hn::SumOfLanes(kGateF32, sum));
}

}  // namespace palimpsest::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace palimpsest {

HWY_EXPORT(layer_norm_impl);
HWY_EXPORT(gelu_impl);
HWY_EXPORT(dot_impl);

namespace {

float softplus(float x) { return std::max(x, 0.0F) + std::log1p(std::exp(-std::abs(x))); }

/// One number a head of every row of the middle, whose rows are `stride` apart.
std::vector<float> outputs(const GateOutput& out, const std::vector<float>& middle, size_t stride) {
    const size_t n_head = out.bias.size();
    const size_t n_mid = out.weight.size() / n_head;
    std::vector<float> all;
    all.reserve(middle.size() / stride * n_head);
    for (size_t at = 0; at < middle.size(); at += stride) {
        for (size_t h = 0; h < n_head; ++h) {
            all.push_back(out.bias[h] + HWY_DYNAMIC_DISPATCH(dot_impl)(
                                            middle.data() + at, out.weight.data() + h * n_mid,
                                            static_cast<int64_t>(n_mid)));
        }
    }
    return all;
}

}  // namespace

void normalise_for_gate(const GateWeights& w, const GateLayer& layer, const float* hidden,
                        float* to) {
    HWY_DYNAMIC_DISPATCH(layer_norm_impl)(hidden, layer.in_norm, w.epsilon, to);
}

GateRatings rate_by_gate(const GateWeights& w, const GateLayer& layer,
                         std::span<const float> normalised) {
    const MatchKeys in = {.type = layer.in_type,
                          .tiles = layer.in.data(),
                          .n = w.n_mid,
                          .d = std::ssize(layer.in_norm.weight)};
    const auto stride = static_cast<size_t>(in.n_tiles() * kMatchTile);
    const size_t n = normalised.size() / static_cast<size_t>(in.d);
    std::vector<float> middle(n * stride);
    all_matches(in, normalised.data(), in.d, middle);
    for (size_t i = 0; i < n; ++i) {
        float* row = middle.data() + i * stride;
        HWY_DYNAMIC_DISPATCH(layer_norm_impl)(row, layer.mid_norm, w.epsilon, row);
        HWY_DYNAMIC_DISPATCH(gelu_impl)(row, w.n_mid);
    }
    GateRatings rated = {.magnitude = outputs(layer.magnitude, middle, stride), .retention = {}};
    if (layer.retention.weight.empty()) return rated;
    rated.retention = outputs(layer.retention, middle, stride);
    for (float& x : rated.retention) x = -softplus(x);
    return rated;
}

}  // namespace palimpsest
#endif
