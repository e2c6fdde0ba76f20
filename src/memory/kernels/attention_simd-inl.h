// Pieces that the attention and scoring kernels share, compiled once for every instruction set:
// entries as f32, products of tiles, the exponential. Included by their sources only, inside
// Highway's foreach_target scheme.

#if defined(PALIMPSEST_ATTENTION_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PALIMPSEST_ATTENTION_SIMD_INL_H_
#undef PALIMPSEST_ATTENTION_SIMD_INL_H_
#else
#define PALIMPSEST_ATTENTION_SIMD_INL_H_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "memory/kernels/attention_kernel.h"

HWY_BEFORE_NAMESPACE();
namespace palimpsest::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

constexpr D kF32;
// Vectors of queries side by side, and numbers broadcast against them: 3 x 8 sums fill 32
// registers, 3 x 4 fill 16.
constexpr size_t kPanelVectors = 3;
#if HWY_TARGET <= HWY_AVX3 || HWY_TARGET == HWY_NEON
constexpr int64_t kBroadcasts = 8;
#else
constexpr int64_t kBroadcasts = 4;
#endif
constexpr float kLog2E = 1.44269504088896341F;
constexpr float kLn2 = 0.69314718055994531F;
constexpr float kNever = -std::numeric_limits<float>::infinity();

HWY_INLINE int64_t panel_rows() { return static_cast<int64_t>(kPanelVectors * hn::Lanes(kF32)); }

/// 2^x for x <= 0, relative error below 2e-7; exactly 0 below -126, so for -inf too.
HWY_INLINE V exp2_nonpositive(V x) {
    const hn::RebindToSigned<D> di;
    const V clamped = hn::Max(x, hn::Set(kF32, -127.0F));
    const auto whole = hn::NearestInt(clamped);
    const V f = hn::Sub(clamped, hn::ConvertTo(kF32, whole));
    // Taylor series of 2^f, |f| <= 1/2.
    V p = hn::Set(kF32, 1.54035304e-4F);
    p = hn::MulAdd(p, f, hn::Set(kF32, 1.33335581e-3F));
    p = hn::MulAdd(p, f, hn::Set(kF32, 9.61812911e-3F));
    p = hn::MulAdd(p, f, hn::Set(kF32, 5.55041087e-2F));
    p = hn::MulAdd(p, f, hn::Set(kF32, 2.40226507e-1F));
    p = hn::MulAdd(p, f, hn::Set(kF32, 6.93147181e-1F));
    p = hn::MulAdd(p, f, hn::Set(kF32, 1.0F));
    const auto biased = hn::Add(whole, hn::Set(di, 127));
    const V power = hn::BitCast(kF32, hn::ShiftLeft<23>(biased));
    return hn::IfThenElseZero(hn::Ge(x, hn::Set(kF32, -126.0F)), hn::Mul(p, power));
}

// ---- entries as f32 ---------------------------------------------------------------------------

/// How a vector of values [c, c + lanes) of a stored row is read. One for each entry type.
struct F32Entries {
    static HWY_INLINE V load(const std::byte* row, int64_t c) {
        return hn::LoadU(kF32, reinterpret_cast<const float*>(row) + c);
    }
};

struct F16Entries {
    static HWY_INLINE V load(const std::byte* row, int64_t c) {
        const hn::Rebind<hwy::float16_t, D> d16;
        return hn::PromoteTo(kF32,
                             hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(row) + c));
    }
};

/// Blocks of 32 values: an f16 scale, then 32 signed bytes (ggml's Q8_0).
struct Q8Entries {
    static HWY_INLINE V load(const std::byte* row, int64_t c) {
        constexpr int64_t kBlock = 32;
        constexpr int64_t kBlockBytes = 2 + kBlock;
        const hn::Rebind<int8_t, D> d8;
        const hn::RebindToSigned<D> d32;
        const std::byte* block = row + c / kBlock * kBlockBytes;
        ggml_fp16_t scale = 0;
        std::memcpy(&scale, block, sizeof scale);
        const auto whole = hn::PromoteTo(
            d32, hn::LoadU(d8, reinterpret_cast<const int8_t*>(block + 2) + c % kBlock));
        return hn::Mul(hn::ConvertTo(kF32, whole), hn::Set(kF32, half_to_float(scale)));
    }

 private:
    /// Finite halves only, which is all that scales are: shifted into place, the exponent is too
    /// small by 112, subnormals included.
    static HWY_INLINE float half_to_float(ggml_fp16_t half) {
        const uint32_t bits = uint32_t{half} & 0x7FFFU;
        const float magnitude = std::bit_cast<float>(bits << 13U) * 0x1p112F;
        return (half & 0x8000U) != 0 ? -magnitude : magnitude;
    }
};

/// Entries are read in order, but the processor's own prefetcher stops at every page.
constexpr int64_t kPrefetchRows = 24;

HWY_INLINE void prefetch_row(const std::byte* rows, int64_t row_bytes, int64_t i) {
    const std::byte* row = rows + (i + kPrefetchRows) * row_bytes;
    for (int64_t b = 0; b < row_bytes; b += 64) hwy::Prefetch(row + b);
}

/// Rows [first, first + n) as f32, row after row: in place if they are, else turned into `tile`.
template <class Entries>
HWY_INLINE const float* load_tile(const std::byte* rows, int64_t row_bytes, int64_t n, int64_t d,
                                  float* tile) {
    if constexpr (std::is_same_v<Entries, F32Entries>) {
        return reinterpret_cast<const float*>(rows);
    }
    const auto lanes = static_cast<int64_t>(hn::Lanes(kF32));
    for (int64_t t = 0; t < n; ++t, rows += row_bytes, tile += d) {
        prefetch_row(rows, row_bytes, 0);
        for (int64_t c = 0; c < d; c += lanes) hn::StoreU(Entries::load(rows, c), kF32, tile + c);
    }
    return tile - n * d;
}

/// Slots in a tile: keys or values of a tile take 16 KiB as f32.
HWY_INLINE int64_t tile_slots(int64_t d) { return std::clamp<int64_t>(4096 / d / 8 * 8, 8, 64); }

/// Hands out pieces of the scratch memory, each a whole number of cache lines.
struct Scratch {
    float* at;
    float* take(int64_t n) {
        float* piece = at;
        at += (n + 15) / 16 * 16;
        return piece;
    }
};

// ---- many queries -----------------------------------------------------------------------------

/// Up to panel_rows() queries side by side; everything transposed: [d or slot][row].
struct Panel {
    float* q;       // [d][rows], scaled to units of log 2
    float* out;     // [d][rows], sums so far
    float* peak;    // [rows], largest logit so far
    float* weight;  // [rows], sum of exp2(logit - peak) so far
    float* begin;   // [rows], visible slots as f32 (exact below 2^24)
    float* end;     // [rows]
    int64_t first_begin, last_begin, first_end, last_end;
};

/// logits[t][row] = k[t] . q[row] for kCount slots.
template <int64_t kCount>
HWY_INLINE void logits_of(const float* k, const Panel& p, int64_t d, float* logits) {
    const size_t lanes = hn::Lanes(kF32);
    const size_t stride = kPanelVectors * lanes;
    V sum[size_t{kCount}][kPanelVectors];
    for (int64_t j = 0; j < kCount; ++j) {
        for (size_t x = 0; x < kPanelVectors; ++x) sum[j][x] = hn::Zero(kF32);
    }
    const float* q = p.q;
    for (int64_t c = 0; c < d; ++c, q += stride) {
        const V q0 = hn::Load(kF32, q);
        const V q1 = hn::Load(kF32, q + lanes);
        const V q2 = hn::Load(kF32, q + 2 * lanes);
        for (int64_t j = 0; j < kCount; ++j) {
            const V b = hn::Set(kF32, k[j * d + c]);
            sum[j][0] = hn::MulAdd(b, q0, sum[j][0]);
            sum[j][1] = hn::MulAdd(b, q1, sum[j][1]);
            sum[j][2] = hn::MulAdd(b, q2, sum[j][2]);
        }
    }
    for (int64_t j = 0; j < kCount; ++j) {
        for (size_t x = 0; x < kPanelVectors; ++x) {
            hn::Store(sum[j][x], kF32, logits + static_cast<size_t>(j) * stride + x * lanes);
        }
    }
}

/// Sets logits of slots that a row does not see to -inf. `first` is the tile's first slot.
HWY_INLINE void mask(const Panel& p, int64_t first, int64_t n, float* logits) {
    const size_t lanes = hn::Lanes(kF32);
    for (size_t x = 0; x < kPanelVectors; ++x) {
        const V begin = hn::Load(kF32, p.begin + x * lanes);
        const V end = hn::Load(kF32, p.end + x * lanes);
        for (int64_t t = 0; t < n; ++t) {
            float* at = logits + (static_cast<size_t>(t) * kPanelVectors + x) * lanes;
            const V slot = hn::Set(kF32, static_cast<float>(first + t));
            const auto seen = hn::And(hn::Ge(slot, begin), hn::Lt(slot, end));
            hn::Store(hn::IfThenElse(seen, hn::Load(kF32, at), hn::Set(kF32, kNever)), kF32, at);
        }
    }
}

inline Panel make_panel(std::span<const QueryRow> rows, int64_t d, float scale, Scratch& scratch) {
    const int64_t width = panel_rows();
    Panel p = {.q = scratch.take(d * width),
               .out = scratch.take(d * width),
               .peak = scratch.take(width),
               .weight = scratch.take(width),
               .begin = scratch.take(width),
               .end = scratch.take(width),
               .first_begin = rows[0].begin,
               .last_begin = rows[0].begin,
               .first_end = rows[0].end,
               .last_end = rows[0].end};
    std::fill_n(p.out, d * width, 0.0F);
    std::fill_n(p.peak, width, kNever);
    std::fill_n(p.weight, width, 0.0F);
    for (int64_t r = 0; r < width; ++r) {
        // Columns past the last row repeat it: they see what it sees and nobody reads them.
        const QueryRow& row = rows[static_cast<size_t>(std::min(r, std::ssize(rows) - 1))];
        for (int64_t c = 0; c < d; ++c) p.q[c * width + r] = row.q[c] * scale * kLog2E;
        p.begin[r] = static_cast<float>(row.begin);
        p.end[r] = static_cast<float>(row.end);
        p.first_begin = std::min(p.first_begin, row.begin);
        p.last_begin = std::max(p.last_begin, row.begin);
        p.first_end = std::min(p.first_end, row.end);
        p.last_end = std::max(p.last_end, row.end);
    }
    return p;
}

// ---- few queries ------------------------------------------------------------------------------

/// Adds the 128-bit blocks of a vector.
template <class Tag, class Vec>
HWY_INLINE auto add_blocks(Tag /*tag*/, Vec v) {
    if constexpr (hn::MaxLanes(Tag()) > 4) {
        const hn::Half<Tag> half;
        return add_blocks(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
    } else {
        return v;
    }
}

/// Sums of four vectors, as four numbers.
HWY_INLINE void store_sums(V a, V b, V c, V d, float* to) {
    const hn::RepartitionToWide<D> wide;
    // Per block: a0+a2, b0+b2, a1+a3, b1+b3; then the same for c and d.
    const V ab = hn::Add(hn::InterleaveLower(kF32, a, b), hn::InterleaveUpper(kF32, a, b));
    const V cd = hn::Add(hn::InterleaveLower(kF32, c, d), hn::InterleaveUpper(kF32, c, d));
    const auto ab2 = hn::BitCast(wide, ab);
    const auto cd2 = hn::BitCast(wide, cd);
    const V all = hn::Add(hn::BitCast(kF32, hn::InterleaveLower(wide, ab2, cd2)),
                          hn::BitCast(kF32, hn::InterleaveUpper(wide, ab2, cd2)));
    const hn::CappedTag<float, 4> four;
    hn::StoreU(add_blocks(kF32, all), four, to);
}

/// A run of stored rows: all keys, or all values, of a part.
struct StoredRows {
    const std::byte* at;
    int64_t row_bytes;
    int64_t n;
    int64_t d;
    [[nodiscard]] HWY_INLINE const std::byte* row(int64_t t) const { return at + t * row_bytes; }
};

/// logits[r * stride + t] = q[r] . k[t] for kRows queries and kSlots = 4 or 1 slots from t on.
template <class Entries, int64_t kRows, int64_t kSlots>
HWY_INLINE void dot_slots(const float* q, const StoredRows& k, int64_t t, float* logits,
                          int64_t stride) {
    const auto lanes = static_cast<int64_t>(hn::Lanes(kF32));
    V sum[size_t{kRows}][size_t{kSlots}];
    for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t j = 0; j < kSlots; ++j) sum[r][j] = hn::Zero(kF32);
    }
    for (int64_t c = 0; c < k.d; c += lanes) {
        V key[size_t{kSlots}];
        for (int64_t j = 0; j < kSlots; ++j) key[j] = Entries::load(k.row(t + j), c);
        for (int64_t r = 0; r < kRows; ++r) {
            const V x = hn::LoadU(kF32, q + r * k.d + c);
            for (int64_t j = 0; j < kSlots; ++j) sum[r][j] = hn::MulAdd(x, key[j], sum[r][j]);
        }
    }
    for (int64_t r = 0; r < kRows; ++r) {
        float* to = logits + r * stride + t;
        if constexpr (kSlots == 4) {
            store_sums(sum[r][0], sum[r][1], sum[r][2], sum[r][3], to);
        } else {
            *to = hn::GetLane(hn::SumOfLanes(kF32, sum[r][0]));
        }
    }
}

template <class Entries, int64_t kRows>
HWY_INLINE void dot_rows(const float* q, const StoredRows& k, float* logits, int64_t stride) {
    int64_t t = 0;
    for (; t + 4 <= k.n; t += 4) {
        for (int64_t j = 0; j < 4; ++j) prefetch_row(k.at, k.row_bytes, t + j);
        dot_slots<Entries, kRows, 4>(q, k, t, logits, stride);
    }
    for (; t < k.n; ++t) dot_slots<Entries, kRows, 1>(q, k, t, logits, stride);
}

/// Up to three queries at a time: more would not leave registers for four slots.
template <class Entries>
HWY_INLINE void dot_all(const float* q, int64_t n_rows, const StoredRows& k, float* logits,
                        int64_t stride) {
    int64_t r = 0;
    for (; r + 3 <= n_rows; r += 3) {
        dot_rows<Entries, 3>(q + r * k.d, k, logits + r * stride, stride);
    }
    if (n_rows - r == 2) dot_rows<Entries, 2>(q + r * k.d, k, logits + r * stride, stride);
    if (n_rows - r == 1) dot_rows<Entries, 1>(q + r * k.d, k, logits + r * stride, stride);
}

/// Calls `work` with the type that reads entries of `type`.
template <class Work>
HWY_INLINE void with_entries(ggml_type type, const Work& work) {
    switch (type) {
        case GGML_TYPE_F32:
            return work(F32Entries());
        case GGML_TYPE_F16:
            return work(F16Entries());
        default:
            return work(Q8Entries());
    }
}

}  // namespace palimpsest::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // PALIMPSEST_ATTENTION_SIMD_INL_H_
