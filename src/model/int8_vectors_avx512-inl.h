// What int8_kernel-inl.h is written in, for AVX-512 VNNI. Included where code for it is compiled.

constexpr int kVectorsAtOnce = 2;
constexpr int64_t kFewAtOnce = 8;
constexpr int kRowsAtOnce = 4;  // 4 x 2 sums of three kinds fill 24 of 32 registers

using Bytes = __m512i;  // 64 numbers of 8 bits or 16 of 32
using Floats = __m512;

PALIMPSEST_INLINE Bytes join(__m256i low, __m256i high) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
PALIMPSEST_INLINE Bytes load(const std::byte* at) { return _mm512_loadu_si512(at); }
PALIMPSEST_INLINE void store(Bytes v, std::byte* to) { _mm512_storeu_si512(to, v); }
PALIMPSEST_INLINE Floats load(const float* at) { return _mm512_loadu_ps(at); }
PALIMPSEST_INLINE void store(Floats v, float* to) { _mm512_storeu_ps(to, v); }
PALIMPSEST_INLINE Bytes no_bytes() { return _mm512_setzero_si512(); }
PALIMPSEST_INLINE Floats no_floats() { return _mm512_setzero_ps(); }
PALIMPSEST_INLINE Floats all(float x) { return _mm512_set1_ps(x); }
PALIMPSEST_INLINE Bytes all_bytes(char x) { return _mm512_set1_epi8(x); }
/// Four numbers, in every lane.
PALIMPSEST_INLINE Bytes all_fours(const std::byte* at) { return _mm512_set1_epi32(read<int>(at)); }

PALIMPSEST_INLINE Bytes minus_bytes(Bytes a, Bytes b) { return _mm512_sub_epi8(a, b); }
PALIMPSEST_INLINE Bytes minus(Bytes a, Bytes b) { return _mm512_sub_epi32(a, b); }
PALIMPSEST_INLINE Bytes plus(Bytes a, Bytes b) { return _mm512_add_epi32(a, b); }
PALIMPSEST_INLINE Bytes either(Bytes a, Bytes b) { return _mm512_or_si512(a, b); }
PALIMPSEST_INLINE Floats to_floats(Bytes v) { return _mm512_cvtepi32_ps(v); }
PALIMPSEST_INLINE Floats times(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
PALIMPSEST_INLINE Floats plus(Floats a, Floats b) { return _mm512_add_ps(a, b); }
PALIMPSEST_INLINE Floats times_plus(Floats a, Floats b, Floats c) {
    return _mm512_fmadd_ps(a, b, c);
}
PALIMPSEST_INLINE Floats least_of(Floats a, Floats b) { return _mm512_min_ps(a, b); }
PALIMPSEST_INLINE Floats whole(Floats v) {
    return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
PALIMPSEST_INLINE bool has_odd(Floats v) { return _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q) != 0; }
PALIMPSEST_INLINE __m256 low(Floats v) { return _mm512_castps512_ps256(v); }
PALIMPSEST_INLINE __m256 high(Floats v) { return _mm512_extractf32x8_ps(v, 1); }
/// Whole numbers from 0 to 255.
PALIMPSEST_INLINE void store_as_bytes(Floats v, std::byte* to) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
}

/// Sums of four products each, added to `sums`, which hold what `Reach` allows (int8_types-inl.h).
template <Reach kReach>
PALIMPSEST_INLINE Bytes add_products(Bytes sums, Bytes x, Bytes w) {
    return _mm512_dpbusd_epi32(sums, x, w);
}
/// Sums of up to four times four products, a lane each.
template <Reach kReach>
PALIMPSEST_INLINE Bytes finished(Bytes sums) {
    return sums;
}

/// May the sums of two groups of 16 be added before they are finished?
template <Reach kReach>
constexpr bool kCarries = true;

/// Two blocks of 16 bytes: low halves of the bytes, then high ones, of each.
PALIMPSEST_INLINE Bytes nibbles(const std::byte* first, const std::byte* second) {
    const __m512i shifts = _mm512_set_epi64(4 * 0x100000001LL, 4 * 0x100000001LL, 0, 0,
                                            4 * 0x100000001LL, 4 * 0x100000001LL, 0, 0);
    return _mm512_and_si512(
        _mm512_srlv_epi32(join(load_16_twice(first), load_16_twice(second)), shifts),
        _mm512_set1_epi8(15));
}

/// 16 where a bit is set.
PALIMPSEST_INLINE Bytes sixteens(uint64_t bits) { return _mm512_maskz_set1_epi8(bits, 16); }

/// Two numbers, each for half of the lanes.
PALIMPSEST_INLINE Floats halves(float first, float second) {
    return _mm512_mask_blend_ps(0xFF00, _mm512_set1_ps(first), _mm512_set1_ps(second));
}
PALIMPSEST_INLINE Floats f16_halves(const std::byte* first, const std::byte* second) {
    const __m256i both = _mm256_mask_set1_epi16(_mm256_set1_epi16(read<int16_t>(first)), 0xFF00,
                                                read<int16_t>(second));
    return _mm512_cvtph_ps(both);
}
/// Four numbers, each for four lanes.
PALIMPSEST_INLINE Bytes quarters(__m128i four) {
    const __m512i order = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    return _mm512_permutexvar_epi32(order, _mm512_castsi128_si512(four));
}
PALIMPSEST_INLINE Floats as_floats(Bytes v) { return _mm512_castsi512_ps(v); }
/// Lanes 4 g + j of vector j.
PALIMPSEST_INLINE Floats one_of_each(Floats a, Floats b, Floats c, Floats d) {
    return _mm512_mask_blend_ps(0xCCCC, _mm512_mask_blend_ps(0x2222, a, b),
                                _mm512_mask_blend_ps(0x8888, c, d));
}
/// v[i] lane 4 g + j becomes v[j] lane 4 g + i.
PALIMPSEST_INLINE void transpose_fours(Bytes* v) {
    const Bytes t[4] = {_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]),
                        _mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3])};
    v[0] = _mm512_unpacklo_epi64(t[0], t[2]);
    v[1] = _mm512_unpackhi_epi64(t[0], t[2]);
    v[2] = _mm512_unpacklo_epi64(t[1], t[3]);
    v[3] = _mm512_unpackhi_epi64(t[1], t[3]);
}
/// Of each lane, the number in its first byte.
PALIMPSEST_INLINE Bytes first_bytes(Bytes v) { return _mm512_and_si512(v, _mm512_set1_epi32(255)); }
/// Lane 4 k.
template <int kQuarter>
PALIMPSEST_INLINE float first_of(Floats v) {
    return _mm_cvtss_f32(_mm512_extractf32x4_ps(v, kQuarter));
}

#include "core/transpose_avx512-inl.h"
