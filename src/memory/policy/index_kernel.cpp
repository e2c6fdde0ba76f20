// Scores of an indexer and their maximum over queries, tile by tile: never a matrix of scores.
//
// Vectors run over keys: an indexer's heads are narrow, and one query's scores against a tile of
// keys that stand channel by channel are a few fused multiplications each.

#include "memory/policy/index_kernel.h"

#include <algorithm>
#include <cmath>

#include "memory/kernels/simd_targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "memory/policy/index_kernel.cpp"
#include <hwy/foreach_target.h>
// Must follow foreach_target.
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace palimpsest::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr hn::ScalableTag<float> kIndexF32;
using IndexVector = hn::Vec<decltype(kIndexF32)>;

constexpr int64_t kTileRows = 64;  // keys in a tile; a multiple of any vector's lanes

/// The same numbers as f32, `n` of them.
inline void widen(const ggml_fp16_t* from, int64_t n, float* to) {
    const auto lanes = static_cast<int64_t>(hn::Lanes(kIndexF32));
    const hn::Rebind<hwy::float16_t, decltype(kIndexF32)> narrow;
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
        const auto halves = hn::LoadU(narrow, reinterpret_cast<const hwy::float16_t*>(from + i));
        hn::StoreU(hn::PromoteTo(kIndexF32, halves), kIndexF32, to + i);
    }
    for (; i < n; ++i) to[i] = ggml_fp16_to_fp32(from[i]);
}

/// Keys of a tile, channel by channel: columns[c * kTileRows + t]; rows past the end are zeros.
inline void transpose(const IndexKeys& keys, int64_t first, int64_t n, float* columns) {
    alignas(64) float widened[kTileRows * kMostIndexWidth];
    const float* rows = widened;
    if (keys.is_f16) {
        widen(reinterpret_cast<const ggml_fp16_t*>(keys.rows) + first * keys.d, n * keys.d,
              widened);
    } else {
        rows = reinterpret_cast<const float*>(keys.rows) + first * keys.d;
    }
    for (int64_t c = 0; c < keys.d; ++c) {
        float* column = columns + c * kTileRows;
        for (int64_t t = 0; t < n; ++t) column[t] = rows[t * keys.d + c];
        std::fill(column + n, column + kTileRows, 0.0F);
    }
}

HWY_INLINE IndexVector softplus(IndexVector x) {
    alignas(64) float lanes[HWY_MAX_BYTES / sizeof(float)];
    hn::Store(x, kIndexF32, lanes);
    for (size_t i = 0; i < hn::Lanes(kIndexF32); ++i) {
        lanes[i] = std::max(lanes[i], 0.0F) + std::log1p(std::exp(-std::abs(lanes[i])));
    }
    return hn::Load(kIndexF32, lanes);
}

template <Activation kActivation>
HWY_INLINE IndexVector activate(IndexVector x) {
    if constexpr (kActivation == Activation::kRelu) return hn::ZeroIfNegative(x);
    if constexpr (kActivation == Activation::kLeakyRelu) {
        return hn::Max(x, hn::Mul(x, hn::Set(kIndexF32, kLeak)));
    }
    if constexpr (kActivation == Activation::kSoftplus) return softplus(x);
    return x;
}

/// What one query pays to a vector of keys of a tile.
template <Activation kActivation>
HWY_INLINE IndexVector score(const IndexQuery& query, int64_t n_head, int64_t d,
                             const float* columns) {
    IndexVector sum = hn::Zero(kIndexF32);
    for (int64_t i = 0; i < n_head; ++i) {
        const float* q = query.q + i * d;
        IndexVector product = hn::Zero(kIndexF32);
        for (int64_t c = 0; c < d; ++c) {
            product = hn::MulAdd(hn::Set(kIndexF32, q[c]),
                                 hn::Load(kIndexF32, columns + c * kTileRows), product);
        }
        sum = hn::MulAdd(hn::Set(kIndexF32, query.alpha[i]), activate<kActivation>(product), sum);
    }
    return sum;
}

/// One tile of columns: what a query pays to the first `seen` of them, where that is more.
template <Activation kActivation>
HWY_INLINE void raise_tile(const IndexQuery& query, int64_t n_head, int64_t d, const float* columns,
                           int64_t seen, float* best) {
    const auto lanes = static_cast<int64_t>(hn::Lanes(kIndexF32));
    for (int64_t t = 0; t < seen; t += lanes) {
        IndexVector s = score<kActivation>(query, n_head, d, columns + t);
        if (t + lanes > seen) {
            const auto visible = hn::FirstN(kIndexF32, static_cast<size_t>(seen - t));
            s = hn::IfThenElse(visible, s, hn::Set(kIndexF32, -HUGE_VALF));
        }
        hn::Store(hn::Max(s, hn::Load(kIndexF32, best + t)), kIndexF32, best + t);
    }
}

template <Activation kActivation>
void raise(const IndexKeys& keys, std::span<const IndexQuery> queries, int64_t n_head,
           int64_t begin, int64_t end, float* importance) {
    alignas(64) float columns[kTileRows * kMostIndexWidth];
    alignas(64) float best[kTileRows];
    for (int64_t first = begin; first < end; first += kTileRows) {
        const int64_t n = std::min(kTileRows, end - first);
        transpose(keys, first, n, columns);
        std::copy_n(importance + (first - begin), n, best);
        std::fill(best + n, best + kTileRows, -HUGE_VALF);
        for (const IndexQuery& query : queries) {
            raise_tile<kActivation>(query, n_head, keys.d, columns,
                                    std::min(n, query.n_visible - first), best);
        }
        std::copy_n(best, n, importance + (first - begin));
    }
}

void raise_importance_impl(const IndexKeys& keys, std::span<const IndexQuery> queries,
                           IndexForm form, int64_t begin, int64_t end, float* importance) {
    const int64_t n = form.n_head;
    switch (form.activation) {
        case Activation::kRelu:
            return raise<Activation::kRelu>(keys, queries, n, begin, end, importance);
        case Activation::kLeakyRelu:
            return raise<Activation::kLeakyRelu>(keys, queries, n, begin, end, importance);
        case Activation::kSoftplus:
            return raise<Activation::kSoftplus>(keys, queries, n, begin, end, importance);
        case Activation::kIdentity:
            return raise<Activation::kIdentity>(keys, queries, n, begin, end, importance);
    }
}

}  // namespace palimpsest::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace palimpsest {

HWY_EXPORT(raise_importance_impl);

void raise_importance(const IndexKeys& keys, std::span<const IndexQuery> queries, IndexForm form,
                      int64_t begin, int64_t end, float* importance) {
    HWY_DYNAMIC_DISPATCH(raise_importance_impl)(keys, queries, form, begin, end, importance);
}

}  // namespace palimpsest
#endif
