// Online-softmax attention over one head's entries, for many queries, in bf16 with f32 sums.
//
// As in attention_kernel.cpp a vector runs over queries, but a lane holds two numbers: of two
// channels where logits are summed, of two slots where values are. AVX-512's bf16 instructions
// multiply both and add them up. A tile of entries is rounded once for all queries of the group.
// Highway has no such target yet, hence intrinsics; only what lies between the pragmas is compiled
// for them, so that nothing of it is chosen by a linker for other processors.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/processor.h"
#include "memory/kernels/attention_kernel.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define PALIMPSEST_ATTENTION_BF16 1
#endif

#ifdef PALIMPSEST_ATTENTION_BF16

#include <hwy/base.h>
#include <immintrin.h>

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 is wrong about its own intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace palimpsest {

namespace {

using V = __m512;

constexpr int64_t kLanes = 16;
constexpr int64_t kVectors = 3;  // of queries: 3 x 8 sums fill 24 of 32 registers
constexpr int64_t kWidth = kVectors * kLanes;
constexpr int64_t kColumns = 8;
constexpr int64_t kMostPanels = kMaxRows / kWidth;
constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr float kLog2E = 1.44269504088896341F;
constexpr float kLn2 = 0.69314718055994531F;

static_assert(kMaxRows % kWidth == 0);

#define PALIMPSEST_INLINE inline __attribute__((always_inline))

#include "core/transpose_avx512-inl.h"

/// Sixteen pairs of bf16: (low[i], high[i]).
PALIMPSEST_INLINE __m512i pairs(V low, V high) {
    const __m512i apart = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, apart);
}

/// sum[i] += a[i].low * b[i].low + a[i].high * b[i].high
PALIMPSEST_INLINE V add_products(V sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}

/// 2^x for x <= 0, relative error below 5e-5, an eightieth of what rounding to bf16 adds; 2^-inf is
/// 0.
PALIMPSEST_INLINE V exp2_rounded(V x) {
    const V whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    // -inf - -inf is no number; its power is 0 whatever it is multiplied by.
    const V f =
        _mm512_maskz_sub_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(-1e4F), _CMP_GT_OQ), x, whole);
    V p = _mm512_set1_ps(9.61812911e-3F);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.55041087e-2F));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.40226507e-1F));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.93147181e-1F));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0F));
    return _mm512_scalef_ps(p, whole);
}

// ---- entries ------------------------------------------------------------------------------------

struct F32Row {
    static PALIMPSEST_INLINE V load(const std::byte* row, int64_t c) {
        return _mm512_loadu_ps(reinterpret_cast<const float*>(row) + c);
    }
};

struct F16Row {
    static PALIMPSEST_INLINE V load(const std::byte* row, int64_t c) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + 2 * c)));
    }
};

/// Blocks of 32 values: an f16 scale, then 32 signed bytes (ggml's Q8_0).
struct Q8Row {
    static PALIMPSEST_INLINE V load(const std::byte* row, int64_t c) {
        constexpr int64_t kBlock = 32;
        constexpr int64_t kBlockBytes = 2 + kBlock;
        const std::byte* block = row + c / kBlock * kBlockBytes;
        uint16_t scale = 0;
        std::memcpy(&scale, block, sizeof scale);
        const V factor = _mm512_cvtph_ps(_mm256_set1_epi16(static_cast<int16_t>(scale)));
        const __m128i bytes =
            _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 2 + c % kBlock));
        return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)), factor);
    }
};

/// Entries of a tile: keys [n][d], values [n / 2][d][2], rounded; n even, absent ones zero.
struct Tile {
    uint16_t* k = nullptr;
    uint16_t* v = nullptr;
    int64_t first = 0, n = 0, d = 0;
};

/// Rows are whole vectors: what lies past a head's last channel in its last one is not read again,
/// since the next row is written over it.
template <class Row>
void load_tile(const EntryRows& e, const Tile& t, int64_t n_there) {
    const auto row_bytes = static_cast<int64_t>(e.row_bytes);
    const std::byte* k = e.k + t.first * row_bytes;
    const std::byte* v = e.v + t.first * row_bytes;
    constexpr int64_t kAhead = 24;  // the processor's own prefetcher stops at every page
    for (int64_t i = 0; i < n_there; ++i) {
        for (int64_t b = 0; b < row_bytes; b += 64) {
            _mm_prefetch(reinterpret_cast<const char*>(k + (i + kAhead) * row_bytes + b),
                         _MM_HINT_T0);
            _mm_prefetch(reinterpret_cast<const char*>(v + (i + kAhead) * row_bytes + b),
                         _MM_HINT_T0);
        }
        for (int64_t c = 0; c < t.d; c += kLanes) {
            _mm256_storeu_si256(
                reinterpret_cast<__m256i*>(t.k + i * t.d + c),
                reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(Row::load(k + i * row_bytes, c))));
        }
    }
    for (int64_t i = 0; i < n_there; i += 2) {
        const bool has_both = i + 1 < n_there;
        for (int64_t c = 0; c < t.d; c += kLanes) {
            const V low = Row::load(v + i * row_bytes, c);
            const V high = has_both ? Row::load(v + (i + 1) * row_bytes, c) : _mm512_setzero_ps();
            _mm512_storeu_si512(t.v + i * t.d + 2 * c, pairs(low, high));
        }
    }
    if (n_there < t.n) std::memset(t.k + n_there * t.d, 0, static_cast<size_t>(t.d) * 2);
}

// ---- queries ------------------------------------------------------------------------------------

/// Up to kWidth queries side by side; everything transposed: [d or slot][row].
struct Panel {
    uint16_t* q = nullptr;     // [d / 2][rows][2], scaled to units of log 2
    float* out = nullptr;      // [d][rows], sums so far
    float* peak = nullptr;     // [rows], largest logit so far
    float* weight = nullptr;   // [rows], sum of exp2(logit - peak) so far
    int32_t* begin = nullptr;  // [rows], visible slots
    int32_t* end = nullptr;    // [rows]
    int64_t first_begin = 0, last_begin = 0, first_end = 0, last_end = 0;
};

struct Scratch {
    std::byte* at;
    template <class T>
    T* take(int64_t n) {
        T* piece = reinterpret_cast<T*>(at);
        at += (n * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
        return piece;
    }
};

/// Lanes of which n are left.
PALIMPSEST_INLINE __mmask16 lanes_of(int64_t n) {
    return static_cast<__mmask16>(n >= kLanes ? 0xFFFF : n <= 0 ? 0 : (1 << n) - 1);
}

/// Queries of sixteen rows, from `first` on, as a panel has them. Rows past the last repeat it:
/// they see what it sees and nobody reads them.
void put_queries(std::span<const QueryRow> rows, int64_t first, int64_t d, float scale,
                 uint16_t* to) {
    const V by = _mm512_set1_ps(scale);
    const V log2e = _mm512_set1_ps(kLog2E);
    for (int64_t c = 0; c < d; c += 2 * kLanes) {
        __m512i pairs_of[kLanes];
        for (int64_t r = 0; r < kLanes; ++r) {
            const float* q = rows[static_cast<size_t>(std::min(first + r, std::ssize(rows) - 1))].q;
            const V low = _mm512_maskz_loadu_ps(lanes_of(d - c), q + c);
            const V high = _mm512_maskz_loadu_ps(lanes_of(d - c - kLanes), q + c + kLanes);
            pairs_of[r] = reinterpret_cast<__m512i>(
                _mm512_cvtne2ps_pbh(_mm512_mul_ps(_mm512_mul_ps(high, by), log2e),
                                    _mm512_mul_ps(_mm512_mul_ps(low, by), log2e)));
        }
        transpose_16x16(pairs_of);
        for (int64_t i = 0; i < kLanes && c + 2 * i < d; ++i) {
            _mm512_store_si512(to + ((c / 2 + i) * kWidth + first) * 2, pairs_of[i]);
        }
    }
}

Panel make_panel(std::span<const QueryRow> rows, int64_t d, float scale, Scratch& scratch) {
    Panel p = {.q = scratch.take<uint16_t>(d * kWidth),
               .out = scratch.take<float>(d * kWidth),
               .peak = scratch.take<float>(kWidth),
               .weight = scratch.take<float>(kWidth),
               .begin = scratch.take<int32_t>(kWidth),
               .end = scratch.take<int32_t>(kWidth),
               .first_begin = rows[0].begin,
               .last_begin = rows[0].begin,
               .first_end = rows[0].end,
               .last_end = rows[0].end};
    std::fill_n(p.out, d * kWidth, 0.0F);
    std::fill_n(p.peak, kWidth, kNever);
    std::fill_n(p.weight, kWidth, 0.0F);
    for (int64_t r = 0; r < kWidth; r += kLanes) put_queries(rows, r, d, scale, p.q);
    for (int64_t r = 0; r < kWidth; ++r) {
        const QueryRow& row = rows[static_cast<size_t>(std::min(r, std::ssize(rows) - 1))];
        p.begin[r] = static_cast<int32_t>(row.begin);
        p.end[r] = static_cast<int32_t>(row.end);
        p.first_begin = std::min(p.first_begin, row.begin);
        p.last_begin = std::max(p.last_begin, row.begin);
        p.first_end = std::min(p.first_end, row.end);
        p.last_end = std::max(p.last_end, row.end);
    }
    return p;
}

PALIMPSEST_INLINE __m512i pair_at(const uint16_t* at) {
    int32_t both = 0;
    std::memcpy(&both, at, sizeof both);
    return _mm512_set1_epi32(both);
}

/// logits[t][row] = k[t] . q[row] for kCount slots.
template <int64_t kCount>
PALIMPSEST_INLINE void logits_of(const uint16_t* k, const Panel& p, int64_t d, float* logits) {
    V sum[size_t{kCount}][kVectors];
    for (int64_t j = 0; j < kCount; ++j) {
        for (int64_t x = 0; x < kVectors; ++x) sum[j][x] = _mm512_setzero_ps();
    }
    const uint16_t* q = p.q;
    for (int64_t c = 0; c < d; c += 2, q += 2 * kWidth) {
        const __m512i q0 = _mm512_load_si512(q);
        const __m512i q1 = _mm512_load_si512(q + 2 * kLanes);
        const __m512i q2 = _mm512_load_si512(q + 4 * kLanes);
        for (int64_t j = 0; j < kCount; ++j) {
            const __m512i b = pair_at(k + j * d + c);
            sum[j][0] = add_products(sum[j][0], q0, b);
            sum[j][1] = add_products(sum[j][1], q1, b);
            sum[j][2] = add_products(sum[j][2], q2, b);
        }
    }
    for (int64_t j = 0; j < kCount; ++j) {
        for (int64_t x = 0; x < kVectors; ++x) {
            _mm512_store_ps(logits + j * kWidth + x * kLanes, sum[j][x]);
        }
    }
}

/// Sets logits of slots that a row does not see to -inf.
void mask(const Panel& p, const Tile& t, float* logits) {
    for (int64_t x = 0; x < kVectors; ++x) {
        const __m512i begin = _mm512_load_si512(p.begin + x * kLanes);
        const __m512i end = _mm512_load_si512(p.end + x * kLanes);
        for (int64_t i = 0; i < t.n; ++i) {
            float* at = logits + i * kWidth + x * kLanes;
            const __m512i slot = _mm512_set1_epi32(static_cast<int32_t>(t.first + i));
            const __mmask16 seen =
                _mm512_cmple_epi32_mask(begin, slot) & _mm512_cmplt_epi32_mask(slot, end);
            _mm512_store_ps(at,
                            _mm512_mask_mov_ps(_mm512_set1_ps(kNever), seen, _mm512_load_ps(at)));
        }
    }
}

/// Turns a tile's logits into rounded weights, [n / 2][row][2] in the same place, and writes what
/// the sums so far must be multiplied by.
PALIMPSEST_INLINE void weigh(const Panel& p, int64_t n, float* logits, uint16_t* weights,
                             float* correction) {
    for (int64_t x = 0; x < kVectors; ++x) {
        const float* column = logits + x * kLanes;
        const V old_peak = _mm512_load_ps(p.peak + x * kLanes);
        V peak = old_peak;
        V other = old_peak;
        for (int64_t t = 0; t < n; t += 2) {
            peak = _mm512_max_ps(peak, _mm512_load_ps(column + t * kWidth));
            other = _mm512_max_ps(other, _mm512_load_ps(column + (t + 1) * kWidth));
        }
        peak = _mm512_max_ps(peak, other);
        // A row that has seen nothing yet has no peak to subtract: -inf - -inf is not a number.
        const V base = _mm512_maskz_mov_ps(
            _mm512_cmp_ps_mask(peak, _mm512_set1_ps(kNever), _CMP_NEQ_OQ), peak);
        V low_sum = _mm512_setzero_ps();
        V high_sum = _mm512_setzero_ps();
        for (int64_t t = 0; t < n; t += 2) {
            const V low = exp2_rounded(_mm512_sub_ps(_mm512_load_ps(column + t * kWidth), base));
            const V high =
                exp2_rounded(_mm512_sub_ps(_mm512_load_ps(column + (t + 1) * kWidth), base));
            low_sum = _mm512_add_ps(low_sum, low);
            high_sum = _mm512_add_ps(high_sum, high);
            _mm512_store_si512(weights + t * kWidth + 2 * x * kLanes, pairs(low, high));
        }
        const V factor = exp2_rounded(_mm512_sub_ps(old_peak, base));
        _mm512_store_ps(correction + x * kLanes, factor);
        _mm512_store_ps(p.peak + x * kLanes, peak);
        _mm512_store_ps(p.weight + x * kLanes,
                        _mm512_fmadd_ps(_mm512_load_ps(p.weight + x * kLanes), factor,
                                        _mm512_add_ps(low_sum, high_sum)));
    }
}

/// out[c][row] = out[c][row] * correction[row] + sum over t of v[t][c] * weights[t][row], for
/// kColumns channels.
PALIMPSEST_INLINE void add_values(const Tile& tile, int64_t c, const uint16_t* weights,
                                  const float* correction, float* out) {
    V sum[kColumns][kVectors];
    for (int64_t j = 0; j < kColumns; ++j) {
        for (int64_t x = 0; x < kVectors; ++x) {
            sum[j][x] = _mm512_mul_ps(_mm512_load_ps(correction + x * kLanes),
                                      _mm512_load_ps(out + j * kWidth + x * kLanes));
        }
    }
    const uint16_t* v = tile.v + 2 * c;
    for (int64_t t = 0; t < tile.n; t += 2, weights += 2 * kWidth, v += 2 * tile.d) {
        const __m512i w0 = _mm512_load_si512(weights);
        const __m512i w1 = _mm512_load_si512(weights + 2 * kLanes);
        const __m512i w2 = _mm512_load_si512(weights + 4 * kLanes);
        for (int64_t j = 0; j < kColumns; ++j) {
            const __m512i b = pair_at(v + 2 * j);
            sum[j][0] = add_products(sum[j][0], w0, b);
            sum[j][1] = add_products(sum[j][1], w1, b);
            sum[j][2] = add_products(sum[j][2], w2, b);
        }
    }
    for (int64_t j = 0; j < kColumns; ++j) {
        for (int64_t x = 0; x < kVectors; ++x) {
            _mm512_store_ps(out + j * kWidth + x * kLanes, sum[j][x]);
        }
    }
}

/// What a panel works in for one tile.
struct Work {
    float* logits = nullptr;
    uint16_t* weights = nullptr;
    float* correction = nullptr;
};

void attend_tile(const Panel& p, const Tile& t, const Work& w) {
    int64_t i = 0;
    for (; i + kColumns <= t.n; i += kColumns) {
        logits_of<kColumns>(t.k + i * t.d, p, t.d, w.logits + i * kWidth);
    }
    for (; i < t.n; ++i) logits_of<1>(t.k + i * t.d, p, t.d, w.logits + i * kWidth);
    if (t.first < p.last_begin || t.first + t.n > p.first_end) mask(p, t, w.logits);
    weigh(p, t.n, w.logits, w.weights, w.correction);
    for (int64_t c = 0; c < t.d; c += kColumns) {
        add_values(t, c, w.weights, w.correction, p.out + c * kWidth);
    }
}

/// Sixteen rows of a panel's sums, from `first` on, each times what it is to be divided by.
void write_sums(const Panel& p, std::span<const QueryRow> rows, int64_t first, int64_t d) {
    const V weight = _mm512_load_ps(p.weight + first);
    const __mmask16 is_some = _mm512_cmp_ps_mask(weight, _mm512_setzero_ps(), _CMP_GT_OQ);
    const V factor = _mm512_maskz_div_ps(is_some, _mm512_set1_ps(1), weight);
    const int64_t n_rows = std::min(kLanes, std::ssize(rows) - first);
    for (int64_t c = 0; c < d; c += kLanes) {
        __m512i sums[kLanes];
        const int64_t n = std::min(kLanes, d - c);
        for (int64_t i = 0; i < kLanes; ++i) {
            const float* at = p.out + (c + std::min(i, n - 1)) * kWidth + first;
            sums[i] = _mm512_castps_si512(_mm512_mul_ps(_mm512_load_ps(at), factor));
        }
        transpose_16x16(sums);
        for (int64_t r = 0; r < n_rows; ++r) {
            _mm512_mask_storeu_ps(rows[static_cast<size_t>(first + r)].out + c, lanes_of(n),
                                  _mm512_castsi512_ps(sums[r]));
        }
    }
}

void write_answers(const Panel& p, std::span<const QueryRow> rows, int64_t d) {
    for (int64_t r = 0; r < std::ssize(rows); r += kLanes) write_sums(p, rows, r, d);
    for (int64_t r = 0; r < std::ssize(rows); ++r) {
        const QueryRow& row = rows[static_cast<size_t>(r)];
        if (row.lse == nullptr) continue;
        *row.lse = p.weight[r] > 0 ? p.peak[r] * kLn2 + std::log(p.weight[r]) : kNever;
    }
}

int64_t tile_slots(int64_t d) { return std::clamp<int64_t>(4096 / d / 8 * 8, 8, 64); }

template <class Row>
void attend(const EntryRows& e, std::span<const QueryRow> rows, float scale, float* memory) {
    Scratch scratch{reinterpret_cast<std::byte*>(memory)};
    std::array<Panel, kMostPanels> panels;
    size_t n_panels = 0;
    for (size_t at = 0; at < rows.size(); at += kWidth) {
        panels[n_panels++] = make_panel(
            rows.subspan(at, std::min<size_t>(kWidth, rows.size() - at)), e.d, scale, scratch);
    }
    const int64_t slots = tile_slots(e.d);
    const Work work = {.logits = scratch.take<float>(slots * kWidth),
                       .weights = scratch.take<uint16_t>(slots * kWidth),
                       .correction = scratch.take<float>(kWidth)};
    Tile tile = {.k = scratch.take<uint16_t>(slots * e.d + kLanes),
                 .v = scratch.take<uint16_t>(slots * e.d + 2 * kLanes),
                 .d = e.d};
    int64_t begin = std::numeric_limits<int64_t>::max();
    int64_t end = 0;
    for (size_t i = 0; i < n_panels; ++i) {
        begin = std::min(begin, panels[i].first_begin);
        end = std::max(end, panels[i].last_end);
    }
    // From the start of a tile, wherever a row begins: its sums then do not depend on other rows.
    for (tile.first = begin / slots * slots; tile.first < end; tile.first += slots) {
        const int64_t n = std::min(slots, end - tile.first);
        tile.n = (n + 1) / 2 * 2;
        load_tile<Row>(e, tile, n);
        for (size_t i = 0; i < n_panels; ++i) {
            const Panel& p = panels[i];
            if (tile.first >= p.last_end || tile.first + n <= p.first_begin) continue;
            attend_tile(p, tile, work);
        }
    }
    for (size_t i = 0; i < n_panels; ++i) {
        const size_t at = i * kWidth;
        write_answers(panels[i], rows.subspan(at, std::min<size_t>(kWidth, rows.size() - at)), e.d);
    }
}

}  // namespace

void attend_rows_bf16(const EntryRows& entries, std::span<const QueryRow> rows, float scale,
                      float* scratch) {
    switch (entries.type) {
        case GGML_TYPE_F32:
            return attend<F32Row>(entries, rows, scale, scratch);
        case GGML_TYPE_F16:
            return attend<F16Row>(entries, rows, scale, scratch);
        default:
            return attend<Q8Row>(entries, rows, scale, scratch);
    }
}

}  // namespace palimpsest

HWY_POP_ATTRIBUTES

namespace palimpsest {

bool has_bf16_attention() { return processor_has(Instructions::kAvx512Bf16); }

}  // namespace palimpsest

#else

namespace palimpsest {

bool has_bf16_attention() { return false; }

void attend_rows_bf16(const EntryRows& entries, std::span<const QueryRow> rows, float scale,
                      float* scratch) {
    attend_rows(entries, rows, scale, scratch);
}

}  // namespace palimpsest

#endif
