// Integer products for AVX-512 VNNI. Highway's version here lacks the instruction, hence
// intrinsics; only what lies between the pragmas is compiled for it, so that nothing of it is
// chosen by a linker for other processors.
//
// Every stored type comes to one form: 64 signed numbers and, for each of the 16 sums of four that
// the instruction makes of them, a scale and, for some types, an offset:
//
//     weight = scale * number + offset,
//
// and every group of 32 of a row to another, with unsigned numbers and a zero among them:
//
//     x = row's scale * (number - zero).

#include "model/int8_kernel.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define PALIMPSEST_INT8 1
#endif

#ifdef PALIMPSEST_INT8

#include <immintrin.h>

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 is wrong about its own intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#ifdef __clang__
#pragma clang attribute push(                                                      \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")
#endif

namespace palimpsest {

namespace {

#define PALIMPSEST_INLINE inline __attribute__((always_inline))

#include "core/transpose_avx512-inl.h"

constexpr int64_t kGroup = 32;  // of a row
constexpr int64_t kPair = 64;   // numbers in a vector
constexpr int kLanes = 16;      // features in a vector of a tile
constexpr int kVectors = 2;     // of them, computed at once
constexpr int kRowsAtOnce = 5;  // 5 x 2 integer and as many f32 sums fill 20 of 32 registers
constexpr int64_t kFewAtOnce = 4;
constexpr size_t kLine = 64;

static_assert(kVectors * kLanes == Int8Tile::kStep);

// ---- rows ---------------------------------------------------------------------------------------

int64_t whole_pairs(int64_t inner) { return (inner + kPair - 1) / kPair * kPair; }

/// Where the parts of a rounded row are, after its numbers. Of each group: its scale, the sum of
/// what its numbers stand for, -scale * zero, and its zero in each of four bytes.
struct RowLayout {
    int64_t scales, sums, offsets, zeros;

    explicit RowLayout(int64_t inner)
        : scales(whole_pairs(inner)),
          sums(scales + whole_pairs(inner) / kGroup * 4),
          offsets(sums + whole_pairs(inner) / kGroup * 4),
          zeros(offsets + whole_pairs(inner) / kGroup * 4) {}
};

struct Row {
    const std::byte* numbers;
    const std::byte* scales;
    const std::byte* sums;
    const std::byte* zeros;

    Row(const std::byte* at, const RowLayout& l)
        : numbers(at), scales(at + l.scales), sums(at + l.sums), zeros(at + l.zeros) {}
};

/// Combines the lanes of two vectors and two others: eight lanes of the result for each two.
template <class Combine, class V>
PALIMPSEST_INLINE __m512 across(const Combine& combine, const V& v) {
    const __m512 first = combine(v[0], v[1]);
    const __m512 second = combine(v[2], v[3]);
    __m512 all = combine(_mm512_shuffle_f32x4(first, second, 0x44),
                         _mm512_shuffle_f32x4(first, second, 0xEE));
    all = combine(all, _mm512_shuffle_f32x4(all, all, 0xB1));
    all = combine(all, _mm512_permute_ps(all, 0x4E));
    return combine(all, _mm512_permute_ps(all, 0xB1));
}

struct Least {
    PALIMPSEST_INLINE __m512 operator()(__m512 a, __m512 b) const { return _mm512_min_ps(a, b); }
};
struct Greatest {
    PALIMPSEST_INLINE __m512 operator()(__m512 a, __m512 b) const { return _mm512_max_ps(a, b); }
};
struct Sum {
    PALIMPSEST_INLINE __m512 operator()(__m512 a, __m512 b) const { return _mm512_add_ps(a, b); }
};

/// What stands in eight lanes for group g, in all.
PALIMPSEST_INLINE __m512 only(__m512 all, int g) {
    return _mm512_permutexvar_ps(_mm512_set1_epi32(8 * g), all);
}

/// One lane in eight, as 8 bytes.
PALIMPSEST_INLINE void store_both(__m512i all, std::byte* to) {
    const __m512i order = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to),
                     _mm512_castsi512_si128(_mm512_permutexvar_epi32(order, all)));
}

/// Rounds the two groups of pair i.
PALIMPSEST_INLINE void round_pair(const float* from, std::byte* row, const RowLayout& l,
                                  int64_t i) {
    const __m512 most = _mm512_set1_ps(255);
    const __m512 least_range = _mm512_set1_ps(1e-35F);  // below it 255 / range overflows
    const __m512 greatest_range = _mm512_set1_ps(std::numeric_limits<float>::max());
    const __m512 nothing = _mm512_setzero_ps();
    __m512 x[4];
    unsigned odd = 0;  // groups with something that is no number, which comparisons lose
    for (int v = 0; v < 4; ++v) {
        x[v] = _mm512_loadu_ps(from + v * 16);
        if (_mm512_cmp_ps_mask(x[v], x[v], _CMP_UNORD_Q) != 0) odd |= v < 2 ? 0xFFU : 0xFF00U;
    }
    const __m512 least = _mm512_min_ps(across(Least(), x), nothing);
    const __m512 range = _mm512_sub_ps(_mm512_max_ps(across(Greatest(), x), nothing), least);
    const __mmask16 is_some = _mm512_cmp_ps_mask(range, least_range, _CMP_GE_OQ);
    const auto is_finite =
        static_cast<__mmask16>(_mm512_cmp_ps_mask(range, greatest_range, _CMP_LE_OQ) & ~odd);
    const auto usable = static_cast<__mmask16>(is_some & is_finite);
    const __m512 factor = _mm512_maskz_div_ps(usable, most, range);
    const __m512 scale = _mm512_mask_mov_ps(_mm512_set1_ps(std::numeric_limits<float>::quiet_NaN()),
                                            is_finite, _mm512_maskz_div_ps(is_some, range, most));
    const __m512i zero =
        _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_sub_ps(usable, nothing, least), factor));
    const __m512 zero_f32 = _mm512_cvtepi32_ps(zero);
    __m512 numbers[4];
    for (int v = 0; v < 4; ++v) {
        const __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(x[v], only(factor, v / 2)),
                                                  _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        numbers[v] = _mm512_min_ps(_mm512_add_ps(whole, only(zero_f32, v / 2)), most);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(row + i * kPair + v * 16),
                         _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(numbers[v])));
    }
    const __m512 sums = _mm512_fnmadd_ps(_mm512_set1_ps(kGroup), zero_f32, across(Sum(), numbers));
    const int64_t at = i * 8;
    store_both(_mm512_castps_si512(scale), row + l.scales + at);
    store_both(_mm512_castps_si512(_mm512_fnmadd_ps(scale, zero_f32, nothing)),
               row + l.offsets + at);
    store_both(_mm512_mullo_epi32(zero, _mm512_set1_epi32(0x01010101)), row + l.zeros + at);
    store_both(_mm512_castps_si512(_mm512_mul_ps(scale, sums)), row + l.sums + at);
}

#include "model/int8_types_avx512-inl.h"

// ---- few rows -----------------------------------------------------------------------------------

/// Two numbers of a pair of groups, each for half of the lanes.
PALIMPSEST_INLINE __m512i spread(const std::byte* two) {
    const __m512i order = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m128i both = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(two));
    return _mm512_permutexvar_epi32(order, _mm512_castsi128_si512(both));
}

/// The same, each in the first lane of its half alone.
PALIMPSEST_INLINE __m512 spread_once(const std::byte* two) {
    return _mm512_castsi512_ps(_mm512_maskz_mov_epi32(0x0101, spread(two)));
}

template <class T, int R>
PALIMPSEST_INLINE void add_pair(const Pair& w, const Row* rows, int64_t i, __m512* products,
                                __m512* offsets) {
    const __m512i nothing = _mm512_setzero_si512();
    for (int r = 0; r < R; ++r) {
        const Row& x = rows[r];
        const __m512i dot = _mm512_sub_epi32(
            _mm512_dpbusd_epi32(nothing, _mm512_loadu_si512(x.numbers + i * kPair), w.numbers),
            _mm512_dpbusd_epi32(nothing, spread(x.zeros + 8 * i), w.numbers));
        const __m512 scale = _mm512_mul_ps(w.scale, _mm512_castsi512_ps(spread(x.scales + 8 * i)));
        products[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, products[r]);
        if constexpr (T::kHasOffset) {
            offsets[r] = _mm512_fmadd_ps(w.offset, spread_once(x.sums + 8 * i), offsets[r]);
        }
    }
}

constexpr int64_t kAhead = 4096;  // bytes that are fetched before they are read

template <class T, int R>
void few(const std::byte* w, int64_t row_bytes, int64_t count, const Row* rows, int64_t inner,
         const F32Rows& out) {
    const int64_t pairs = inner / kPair;
    for (int64_t f = 0; f < count; ++f, w += row_bytes) {
        for (int64_t b = 0; b < row_bytes; b += static_cast<int64_t>(kLine)) {
            _mm_prefetch(reinterpret_cast<const char*>(w) + kAhead + b, _MM_HINT_T0);
        }
        __m512 products[size_t{R}];
        __m512 offsets[size_t{R}];
        for (int r = 0; r < R; ++r) products[r] = offsets[r] = _mm512_setzero_ps();
        for (int64_t i = 0; i < pairs; ++i) {
            add_pair<T, R>(pair_of<T>(w, i, nullptr), rows, i, products, offsets);
        }
        Spare<T> spare;
        if (const std::byte* last = spare.of(w, inner)) {
            add_pair<T, R>(pair_of<T>(w, pairs, last), rows, pairs, products, offsets);
        }
        for (int r = 0; r < R; ++r) {
            out.data[r * out.stride + f] =
                _mm512_reduce_add_ps(_mm512_add_ps(products[r], offsets[r]));
        }
    }
}

template <class T>
void multiply_few(const std::byte* w, int64_t row_bytes, int64_t count, const Int8Rows& rows,
                  const F32Rows& out) {
    const RowLayout layout(rows.inner);
    for (int64_t first = 0; first < rows.n; first += kFewAtOnce) {
        const int64_t n = std::min(kFewAtOnce, rows.n - first);
        const auto row = [&](int64_t r) {
            const int64_t i = first + std::min(r, n - 1);
            return Row(rows.data + i * int8_row_bytes(rows.inner), layout);
        };
        const std::array<Row, kFewAtOnce> at = {row(0), row(1), row(2), row(3)};
        const F32Rows to{.data = out.data + first * out.stride, .stride = out.stride};
        constexpr std::array kBy = {few<T, 1>, few<T, 2>, few<T, 3>, few<T, 4>};
        kBy[static_cast<size_t>(n - 1)](w, row_bytes, count, at.data(), rows.inner, to);
    }
}

// ---- many rows ----------------------------------------------------------------------------------

/// One step of a tile: numbers [inner / 4][2 vectors][16 features][4], then, all [groups][2
/// vectors][16 features], scales, scaled sums of the numbers and, for types that have them,
/// offsets.
struct StepLayout {
    int64_t scales, sums, offsets, bytes;

    StepLayout(int64_t inner, int64_t group, bool has_offset)
        : scales(whole_pairs(inner) * Int8Tile::kStep),
          sums(scales + whole_pairs(inner) / group * Int8Tile::kStep * 4),
          offsets(sums + whole_pairs(inner) / group * Int8Tile::kStep * 4),
          bytes(offsets +
                (has_offset ? whole_pairs(inner) / group * Int8Tile::kStep * 4 : int64_t{0})) {}

    template <class T>
    static StepLayout of(int64_t inner) {
        return {inner, T::kGroupSize, T::kHasOffset};
    }
};

/// What 16 features share a scale in, of a pair's lanes.
template <int64_t kLane>
PALIMPSEST_INLINE void store_lane(__m512 from, float* to) {
    _mm_store_ss(to, _mm512_extractf32x4_ps(from, kLane));
}

template <class T>
PALIMPSEST_INLINE void store_groups(__m512 from, float* to) {
    constexpr int64_t kNext = Int8Tile::kStep;
    store_lane<0>(from, to);
    if constexpr (T::kGroupSize == kGroup) {
        store_lane<2>(from, to + kNext);
    } else {
        store_lane<1>(from, to + kNext);
        store_lane<2>(from, to + 2 * kNext);
        store_lane<3>(from, to + 3 * kNext);
    }
}

/// 16 features, of which `count` are there, as vector `v` of a step.
template <class T>
void unpack_vector(const std::byte* w, int64_t row_bytes, int64_t count, int64_t inner, int v,
                   std::byte* step) {
    const StepLayout layout = StepLayout::of<T>(inner);
    std::array<Spare<T>, size_t{kLanes}> spares;
    std::array<const std::byte*, size_t{kLanes}> features{};
    for (int64_t f = 0; f < kLanes; ++f) {
        features[static_cast<size_t>(f)] = w + std::min(f, count - 1) * row_bytes;
    }
    const int64_t pairs = whole_pairs(inner) / kPair;
    constexpr int64_t kGroups = kPair / T::kGroupSize;
    for (int64_t i = 0; i < pairs; ++i) {
        const bool is_spare = (i + 1) * kPair > inner;
        const auto at = [&](int64_t part, int64_t group) {
            return reinterpret_cast<float*>(step + part) +
                   ((i * kGroups + group) * kVectors + v) * kLanes;
        };
        __m512i numbers[kLanes];
        for (size_t f = 0; f < kLanes; ++f) {
            const std::byte* spare = is_spare ? spares[f].of(features[f], inner) : nullptr;
            const Pair p = pair_of<T>(features[f], i, spare);
            numbers[f] = p.numbers;
            store_groups<T>(p.scale, at(layout.scales, 0) + f);
            if constexpr (T::kHasOffset) store_groups<T>(p.offset, at(layout.offsets, 0) + f);
        }
        transpose_16x16(numbers);
        for (int64_t k = 0; k < kLanes; ++k) {
            _mm512_store_si512(
                step + ((i * kLanes + k) * kVectors + v) * static_cast<int64_t>(kLine), numbers[k]);
        }
        constexpr int64_t kFours = T::kGroupSize / 4;
        for (int64_t g = 0; g < kGroups; ++g) {
            __m512i sum = _mm512_setzero_si512();
            for (int64_t k = 0; k < kFours; ++k) {
                sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), numbers[g * kFours + k]);
            }
            _mm512_store_ps(
                at(layout.sums, g),
                _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_load_ps(at(layout.scales, g))));
        }
    }
}

template <class T>
void unpack(const std::byte* w, int64_t row_bytes, int64_t count, int64_t inner, std::byte* to) {
    const StepLayout layout = StepLayout::of<T>(inner);
    for (int64_t first = 0; first < count; first += Int8Tile::kStep, to += layout.bytes) {
        for (int v = 0; v < kVectors; ++v) {
            // A last vector that is not there repeats the last feature; nobody reads it.
            const int64_t start = std::min(first + v * kLanes, count - 1);
            unpack_vector<T>(w + start * row_bytes, row_bytes,
                             std::min<int64_t>(kLanes, count - start), inner, v, to);
        }
    }
}

/// A step's features for R rows, which lie `stride` bytes apart.
template <class T, int R>
PALIMPSEST_INLINE void multiply_rows(const std::byte* step, const std::byte* rows, int64_t stride,
                                     int64_t inner, const F32Rows& out) {
    constexpr int64_t kGroupSize = T::kGroupSize;
    const StepLayout layout = StepLayout::of<T>(inner);
    const RowLayout row(inner);
    const auto* scales = reinterpret_cast<const float*>(step + layout.scales);
    const auto* sums_of_numbers = reinterpret_cast<const float*>(step + layout.sums);
    const auto* offsets = reinterpret_cast<const float*>(step + layout.offsets);
    const std::byte* row_scales = rows + row.scales;
    const std::byte* row_offsets = rows + row.offsets;
    const std::byte* row_sums = rows + row.sums;
    const auto number = [stride](const std::byte* of_rows, int64_t r, int64_t i) {
        return reinterpret_cast<const float*>(of_rows + r * stride)[i];
    };
    __m512 sums[size_t{R}][kVectors];
    for (int r = 0; r < R; ++r) {
        for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm512_setzero_ps();
    }
    const int64_t groups = whole_pairs(inner) / kGroupSize;
    for (int64_t g = 0; g < groups; ++g) {
        __m512i products[size_t{R}][kVectors];
        for (int r = 0; r < R; ++r) {
            for (int v = 0; v < kVectors; ++v) products[r][v] = _mm512_setzero_si512();
        }
#pragma GCC unroll 8
        for (int64_t k = 0; k < kGroupSize / 4; ++k) {
            __m512i w[kVectors];
            for (int v = 0; v < kVectors; ++v) {
                w[v] = _mm512_load_si512(step + (k * kVectors + v) * static_cast<int64_t>(kLine));
            }
            for (int r = 0; r < R; ++r) {
                const __m512i x = _mm512_set1_epi32(read<int>(rows + r * stride + k * 4));
                for (int v = 0; v < kVectors; ++v) {
                    products[r][v] = _mm512_dpbusd_epi32(products[r][v], x, w[v]);
                }
            }
        }
        step += kGroupSize / 4 * kVectors * static_cast<int64_t>(kLine);
        rows += kGroupSize;
        const int64_t of_row = g * kGroupSize / kGroup;
        for (int v = 0; v < kVectors; ++v) {
            const int64_t at = (g * kVectors + v) * kLanes;
            const __m512 scale = _mm512_load_ps(scales + at);
            const __m512 sum = _mm512_load_ps(sums_of_numbers + at);
            for (int r = 0; r < R; ++r) {
                const __m512 both =
                    _mm512_mul_ps(scale, _mm512_set1_ps(number(row_scales, r, of_row)));
                sums[r][v] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products[r][v]), both, sums[r][v]);
                sums[r][v] = _mm512_fmadd_ps(sum, _mm512_set1_ps(number(row_offsets, r, of_row)),
                                             sums[r][v]);
                if constexpr (T::kHasOffset) {
                    static_assert(kGroupSize == kGroup);
                    sums[r][v] =
                        _mm512_fmadd_ps(_mm512_load_ps(offsets + at),
                                        _mm512_set1_ps(number(row_sums, r, g)), sums[r][v]);
                }
            }
        }
    }
    for (int r = 0; r < R; ++r) {
        for (int v = 0; v < kVectors; ++v) {
            _mm512_storeu_ps(out.data + r * out.stride + v * kLanes, sums[r][v]);
        }
    }
}

template <class T>
void multiply_step(const std::byte* step, const Int8Rows& rows, const F32Rows& out) {
    const int64_t stride = int8_row_bytes(rows.inner);
    int64_t r = 0;
    const auto at = [&](int64_t i) {
        return F32Rows{.data = out.data + i * out.stride, .stride = out.stride};
    };
    for (; r + kRowsAtOnce <= rows.n; r += kRowsAtOnce) {
        multiply_rows<T, kRowsAtOnce>(step, rows.data + r * stride, stride, rows.inner, at(r));
    }
    const std::byte* rest = rows.data + r * stride;
    static_assert(kRowsAtOnce == 5);
    switch (rows.n - r) {
        case 4:
            return multiply_rows<T, 4>(step, rest, stride, rows.inner, at(r));
        case 3:
            return multiply_rows<T, 3>(step, rest, stride, rows.inner, at(r));
        case 2:
            return multiply_rows<T, 2>(step, rest, stride, rows.inner, at(r));
        case 1:
            return multiply_rows<T, 1>(step, rest, stride, rows.inner, at(r));
        default:
            return;
    }
}

// ---- by type ------------------------------------------------------------------------------------

struct Kernels {
    ggml_type type;
    int64_t group;
    bool has_offset;
    void (*few)(const std::byte* w, int64_t row_bytes, int64_t count, const Int8Rows& rows,
                const F32Rows& out);
    void (*unpack)(const std::byte* w, int64_t row_bytes, int64_t count, int64_t inner,
                   std::byte* to);
    void (*multiply)(const std::byte* step, const Int8Rows& rows, const F32Rows& out);
};

template <class T>
constexpr Kernels kernels(ggml_type type) {
    return {.type = type,
            .group = T::kGroupSize,
            .has_offset = T::kHasOffset,
            .few = multiply_few<T>,
            .unpack = unpack<T>,
            .multiply = multiply_step<T>};
}

constexpr std::array<Kernels, 8> kKernels = {
    {kernels<Q4_0>(GGML_TYPE_Q4_0), kernels<Q4_1>(GGML_TYPE_Q4_1), kernels<Q5_0>(GGML_TYPE_Q5_0),
     kernels<Q5_1>(GGML_TYPE_Q5_1), kernels<Q8_0>(GGML_TYPE_Q8_0), kernels<Q4_K>(GGML_TYPE_Q4_K),
     kernels<Q5_K>(GGML_TYPE_Q5_K), kernels<Q6_K>(GGML_TYPE_Q6_K)}};

}  // namespace

void round_to_int8(const float* x, int64_t first, int64_t count, int64_t inner, std::byte* row) {
    const RowLayout layout(inner);
    int64_t i = 0;
    for (; i + kPair <= count; i += kPair) round_pair(x + i, row, layout, (first + i) / kPair);
    if (i == count) return;
    std::array<float, kPair> last{};
    std::copy(x + i, x + count, last.begin());
    round_pair(last.data(), row, layout, (first + i) / kPair);
}

void rms_norm_row(const float* x, const float* weight, int64_t n, float epsilon, float* to) {
    __m512 squares[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                         _mm512_setzero_ps()};
    const auto mask = [n](int64_t i) {
        return static_cast<__mmask16>(n - i >= kLanes ? 0xFFFF : (1 << (n - i)) - 1);
    };
    for (int64_t i = 0; i < n; i += kLanes) {
        const __m512 v = _mm512_maskz_loadu_ps(mask(i), x + i);
        __m512& sum = squares[i / kLanes % 4];
        sum = _mm512_fmadd_ps(v, v, sum);
    }
    const float sum = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(squares[0], squares[1]),
                                                         _mm512_add_ps(squares[2], squares[3])));
    const __m512 scale = _mm512_set1_ps(1 / std::sqrt(sum / static_cast<float>(n) + epsilon));
    for (int64_t i = 0; i < n; i += kLanes) {
        const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask(i), x + i), scale);
        _mm512_mask_storeu_ps(to + i, mask(i),
                              _mm512_mul_ps(v, _mm512_maskz_loadu_ps(mask(i), weight + i)));
    }
}

}  // namespace palimpsest

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace palimpsest {

namespace {

const Kernels* find(ggml_type type) {
    const auto* const found = std::find_if(kKernels.begin(), kKernels.end(),
                                           [type](const Kernels& k) { return k.type == type; });
    return found == kKernels.end() ? nullptr : found;
}

const Kernels& kernels_of(ggml_type type) {
    const Kernels* found = find(type);
    check(found != nullptr, "int8 products were asked whether they know the type");
    return *found;
}

const std::byte* feature(const ggml_tensor* w, int64_t i) {
    return static_cast<const std::byte*>(w->data) + static_cast<size_t>(i) * w->nb[1];
}

}  // namespace

std::string int8_obstacle() {
    const bool has =
        __builtin_cpu_supports("avx512vnni") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
        __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0;
    return has ? "" : "this processor lacks AVX-512's integer products (VNNI)";
}

bool int8_knows(ggml_type type) { return find(type) != nullptr; }

int64_t int8_row_bytes(int64_t inner) { return whole_pairs(inner) * 3 / 2; }

void int8_multiply_few(const ggml_tensor* w, int64_t first, int64_t count, const Int8Rows& rows,
                       const F32Rows& out) {
    kernels_of(w->type).few(feature(w, first), static_cast<int64_t>(w->nb[1]), count, rows, out);
}

size_t Int8Tile::bytes(int64_t features, int64_t inner) {
    const int64_t steps = (features + kStep - 1) / kStep;
    int64_t most = 0;
    for (const Kernels& k : kKernels) {
        most = std::max(most, StepLayout(inner, k.group, k.has_offset).bytes);
    }
    return static_cast<size_t>(steps * most);
}

Int8Tile::Int8Tile(const ggml_tensor* w, int64_t first, int64_t count, std::byte* memory)
    : steps_((count + kStep - 1) / kStep), inner_(w->ne[0]), type_(w->type), memory_(memory) {
    kernels_of(w->type).unpack(feature(w, first), static_cast<int64_t>(w->nb[1]), count, inner_,
                               memory);
}

void Int8Tile::multiply(const Int8Rows& rows, const F32Rows& out) const {
    const Kernels& k = kernels_of(type_);
    const StepLayout layout(inner_, k.group, k.has_offset);
    for (int64_t s = 0; s < steps_; ++s) {
        k.multiply(memory_ + s * layout.bytes, rows,
                   {.data = out.data + s * kStep, .stride = out.stride});
    }
}

}  // namespace palimpsest

#else

namespace palimpsest {

std::string int8_obstacle() { return "this build has no integer products for its processor"; }
bool int8_knows(ggml_type /*type*/) { return false; }
int64_t int8_row_bytes(int64_t inner) { return inner; }
void round_to_int8(const float* /*x*/, int64_t /*first*/, int64_t /*count*/, int64_t /*inner*/,
                   std::byte* /*row*/) {}
void rms_norm_row(const float* /*x*/, const float* /*weight*/, int64_t /*n*/, float /*epsilon*/,
                  float* /*to*/) {}
void int8_multiply_few(const ggml_tensor* /*w*/, int64_t /*first*/, int64_t /*count*/,
                       const Int8Rows& /*rows*/, const F32Rows& /*out*/) {}
size_t Int8Tile::bytes(int64_t /*features*/, int64_t /*inner*/) { return 0; }
Int8Tile::Int8Tile(const ggml_tensor* w, int64_t /*first*/, int64_t /*count*/, std::byte* memory)
    : steps_(0), inner_(w->ne[0]), type_(w->type), memory_(memory) {}
void Int8Tile::multiply(const Int8Rows& /*rows*/, const F32Rows& /*out*/) const {}

}  // namespace palimpsest

#endif
