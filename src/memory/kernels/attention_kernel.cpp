// Online-softmax attention over one head's entries, for many queries.
//
// A vector runs over queries: queries and answers are kept transposed, so that a key or value is
// one broadcast number, products of a tile are small matrix products in registers, and the softmax
// needs no sum across a vector. A tile of entries is first turned into f32, once for all queries of
// the group, so that every entry type costs one loop. The online softmax is that of Milakov and
// Gimelshein (arXiv:1805.02867); tiling as in FlashAttention (Dao et al., arXiv:2205.14135).

#include "memory/kernels/attention_kernel.h"

#include "core/processor.h"
#include "memory/kernels/simd_targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "memory/kernels/attention_kernel.cpp"
#include <hwy/foreach_target.h>
// Must follow foreach_target.
#include "memory/kernels/attention_simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace palimpsest::HWY_NAMESPACE {

/// Turns a tile's logits into weights, and writes what the sums so far must be multiplied by.
HWY_INLINE void weigh(const Panel& p, int64_t n, float* logits, float* correction) {
    const size_t lanes = hn::Lanes(kF32);
    const size_t stride = kPanelVectors * lanes;
    for (size_t x = 0; x < kPanelVectors; ++x) {
        float* column = logits + x * lanes;
        const V old_peak = hn::Load(kF32, p.peak + x * lanes);
        V peak = old_peak;
        for (int64_t t = 0; t < n; ++t) {
            peak = hn::Max(peak, hn::Load(kF32, column + static_cast<size_t>(t) * stride));
        }
        // A row that has seen nothing yet has no peak to subtract: -inf - -inf is not a number.
        const V base = hn::IfThenZeroElse(hn::Eq(peak, hn::Set(kF32, kNever)), peak);
        V weight = hn::Zero(kF32);
        for (int64_t t = 0; t < n; ++t) {
            float* at = column + static_cast<size_t>(t) * stride;
            const V w = exp2_nonpositive(hn::Sub(hn::Load(kF32, at), base));
            weight = hn::Add(weight, w);
            hn::Store(w, kF32, at);
        }
        const V factor = exp2_nonpositive(hn::Sub(old_peak, base));
        hn::Store(factor, kF32, correction + x * lanes);
        hn::Store(peak, kF32, p.peak + x * lanes);
        hn::Store(hn::MulAdd(hn::Load(kF32, p.weight + x * lanes), factor, weight), kF32,
                  p.weight + x * lanes);
    }
}

/// out[c][row] = out[c][row] * correction[row] + sum over t of v[t][c] * weights[t][row], for
/// kBroadcasts channels.
HWY_INLINE void add_values(const float* v, int64_t n, int64_t d, const float* weights,
                           const float* correction, float* out) {
    const size_t lanes = hn::Lanes(kF32);
    const size_t stride = kPanelVectors * lanes;
    V sum[size_t{kBroadcasts}][kPanelVectors];
    for (int64_t j = 0; j < kBroadcasts; ++j) {
        for (size_t x = 0; x < kPanelVectors; ++x) {
            sum[j][x] = hn::Mul(hn::Load(kF32, correction + x * lanes),
                                hn::Load(kF32, out + static_cast<size_t>(j) * stride + x * lanes));
        }
    }
    for (int64_t t = 0; t < n; ++t, weights += stride, v += d) {
        const V w0 = hn::Load(kF32, weights);
        const V w1 = hn::Load(kF32, weights + lanes);
        const V w2 = hn::Load(kF32, weights + 2 * lanes);
        for (int64_t j = 0; j < kBroadcasts; ++j) {
            const V b = hn::Set(kF32, v[j]);
            sum[j][0] = hn::MulAdd(b, w0, sum[j][0]);
            sum[j][1] = hn::MulAdd(b, w1, sum[j][1]);
            sum[j][2] = hn::MulAdd(b, w2, sum[j][2]);
        }
    }
    for (int64_t j = 0; j < kBroadcasts; ++j) {
        for (size_t x = 0; x < kPanelVectors; ++x) {
            hn::Store(sum[j][x], kF32, out + static_cast<size_t>(j) * stride + x * lanes);
        }
    }
}

/// Entries in sight, as f32: [n][d] keys and values, the first at slot `first`.
struct EntryTile {
    const float* k;
    const float* v;
    int64_t first, n, d;
};

HWY_INLINE void attend_tile(const Panel& p, const EntryTile& e, float* logits, float* correction) {
    const auto stride = panel_rows();
    int64_t t = 0;
    for (; t + kBroadcasts <= e.n; t += kBroadcasts) {
        logits_of<kBroadcasts>(e.k + t * e.d, p, e.d, logits + t * stride);
    }
    for (; t < e.n; ++t) logits_of<1>(e.k + t * e.d, p, e.d, logits + t * stride);
    if (e.first < p.last_begin || e.first + e.n > p.first_end) mask(p, e.first, e.n, logits);
    weigh(p, e.n, logits, correction);
    for (int64_t c = 0; c < e.d; c += kBroadcasts) {
        add_values(e.v + c, e.n, e.d, logits, correction, p.out + c * stride);
    }
}

void write_answers(const Panel& p, std::span<const QueryRow> rows, int64_t d) {
    const int64_t width = panel_rows();
    for (int64_t r = 0; r < std::ssize(rows); ++r) {
        const QueryRow& row = rows[static_cast<size_t>(r)];
        const float factor = p.weight[r] > 0 ? 1.0F / p.weight[r] : 0.0F;
        for (int64_t c = 0; c < d; ++c) row.out[c] = p.out[c * width + r] * factor;
        if (row.lse != nullptr) {
            *row.lse = p.weight[r] > 0 ? p.peak[r] * kLn2 + std::log(p.weight[r]) : kNever;
        }
    }
}

template <class Entries>
void attend_rows_of(const EntryRows& e, std::span<const QueryRow> rows, float scale,
                    float* memory) {
    constexpr size_t kMaxPanels = static_cast<size_t>(kMaxRows) / (kPanelVectors * 4);
    Scratch scratch{memory};
    Panel panels[kMaxPanels];
    size_t n_panels = 0;
    const auto width = static_cast<size_t>(panel_rows());
    for (size_t at = 0; at < rows.size(); at += width) {
        panels[n_panels++] =
            make_panel(rows.subspan(at, std::min(width, rows.size() - at)), e.d, scale, scratch);
    }
    const int64_t slots = tile_slots(e.d);
    float* logits = scratch.take(slots * panel_rows());
    float* correction = scratch.take(panel_rows());
    float* k_tile = scratch.take(slots * e.d);
    float* v_tile = scratch.take(slots * e.d);

    int64_t begin = std::numeric_limits<int64_t>::max();
    int64_t end = 0;
    for (size_t i = 0; i < n_panels; ++i) {
        begin = std::min(begin, panels[i].first_begin);
        end = std::max(end, panels[i].last_end);
    }
    for (int64_t first = begin; first < end; first += slots) {
        const int64_t n = std::min(slots, end - first);
        const auto row_bytes = static_cast<int64_t>(e.row_bytes);
        const float* k = load_tile<Entries>(e.k + first * row_bytes, row_bytes, n, e.d, k_tile);
        const float* v = load_tile<Entries>(e.v + first * row_bytes, row_bytes, n, e.d, v_tile);
        for (size_t i = 0; i < n_panels; ++i) {
            const Panel& p = panels[i];
            if (first >= p.last_end || first + n <= p.first_begin) continue;
            attend_tile(p, {k, v, first, n, e.d}, logits, correction);
        }
    }
    for (size_t i = 0; i < n_panels; ++i) {
        const size_t at = i * width;
        write_answers(panels[i], rows.subspan(at, std::min(width, rows.size() - at)), e.d);
    }
}

void attend_rows_impl(const EntryRows& e, std::span<const QueryRow> rows, float scale,
                      float* memory) {
    with_entries(e.type, [&](auto entries) HWY_ATTR {
        attend_rows_of<decltype(entries)>(e, rows, scale, memory);
    });
}

const char* target_impl() { return hwy::TargetName(HWY_TARGET); }

}  // namespace palimpsest::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace palimpsest {

HWY_EXPORT(attend_rows_impl);
HWY_EXPORT(target_impl);

size_t attention_scratch_floats(int64_t d, int64_t n_group) {
    constexpr int64_t kSlack = int64_t{64} * 16;  // pieces are rounded up to cache lines
    const int64_t rows = kMaxRows + 48;           // the last panel may be nearly empty
    const int64_t tile = std::max<int64_t>(4096, 8 * d);
    const int64_t many = rows * (2 * d + 4) + int64_t{64} * 48 + 48 + 2 * tile;
    const int64_t few = n_group * (2 * d + kMaxPart + 16);
    return static_cast<size_t>(std::max(many, few) + kSlack);
}

void attend_rows(const EntryRows& entries, std::span<const QueryRow> rows, float scale,
                 float* scratch) {
    HWY_DYNAMIC_DISPATCH(attend_rows_impl)(entries, rows, scale, scratch);
}

void limit_kernels() {
    if (!may_use(Instructions::kAvx2)) {
        hwy::DisableTargets(HWY_AVX2 | (HWY_AVX2 - 1));
    } else if (!may_use(Instructions::kAvx512Bf16)) {
        hwy::DisableTargets(HWY_AVX2 - 1);
    }
}

const char* attention_target() { return HWY_DYNAMIC_DISPATCH(target_impl)(); }

}  // namespace palimpsest
#endif
