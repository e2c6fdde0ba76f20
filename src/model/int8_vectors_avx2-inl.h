// What int8_kernel-inl.h is written in, for AVX2 and, where PALIMPSEST_AVX_VNNI is set, its integer
// products. Included where code for it is compiled. A vector is two registers: what is computed is
// what AVX-512 computes, to the bit.

constexpr int kVectorsAtOnce = 1;
constexpr int64_t kFewAtOnce = 4;
constexpr int kRowsAtOnce = 3;  // more loads of weights cost more than sums that are kept in memory

struct Bytes {  // 64 numbers of 8 bits or 16 of 32
    __m256i low, high;
};
struct Floats {
    __m256 low, high;
};

PALIMPSEST_INLINE Bytes join(__m256i low, __m256i high) { return {low, high}; }
PALIMPSEST_INLINE Bytes load(const std::byte* at) { return {load_32(at), load_32(at + 32)}; }
PALIMPSEST_INLINE void store(Bytes v, std::byte* to) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), v.low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 32), v.high);
}
PALIMPSEST_INLINE Floats load(const float* at) {
    return {_mm256_loadu_ps(at), _mm256_loadu_ps(at + 8)};
}
PALIMPSEST_INLINE void store(Floats v, float* to) {
    _mm256_storeu_ps(to, v.low);
    _mm256_storeu_ps(to + 8, v.high);
}
PALIMPSEST_INLINE Bytes twice(__m256i v) { return {v, v}; }
PALIMPSEST_INLINE Floats twice(__m256 v) { return {v, v}; }
PALIMPSEST_INLINE Bytes no_bytes() { return twice(_mm256_setzero_si256()); }
PALIMPSEST_INLINE Floats no_floats() { return twice(_mm256_setzero_ps()); }
PALIMPSEST_INLINE Floats all(float x) { return twice(_mm256_set1_ps(x)); }
PALIMPSEST_INLINE Bytes all_bytes(char x) { return twice(_mm256_set1_epi8(x)); }
/// Four numbers, in every lane.
PALIMPSEST_INLINE Bytes all_fours(const std::byte* at) {
    return twice(_mm256_set1_epi32(read<int>(at)));
}

PALIMPSEST_INLINE Bytes minus_bytes(Bytes a, Bytes b) {
    return {_mm256_sub_epi8(a.low, b.low), _mm256_sub_epi8(a.high, b.high)};
}
PALIMPSEST_INLINE Bytes minus(Bytes a, Bytes b) {
    return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)};
}
PALIMPSEST_INLINE Bytes plus(Bytes a, Bytes b) {
    return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
PALIMPSEST_INLINE Bytes either(Bytes a, Bytes b) {
    return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)};
}
PALIMPSEST_INLINE Floats to_floats(Bytes v) {
    return {_mm256_cvtepi32_ps(v.low), _mm256_cvtepi32_ps(v.high)};
}
PALIMPSEST_INLINE Floats times(Floats a, Floats b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
PALIMPSEST_INLINE Floats plus(Floats a, Floats b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
PALIMPSEST_INLINE Floats times_plus(Floats a, Floats b, Floats c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
PALIMPSEST_INLINE Floats least_of(Floats a, Floats b) {
    return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
PALIMPSEST_INLINE Floats whole(Floats v) {
    constexpr int kHow = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(v.low, kHow), _mm256_round_ps(v.high, kHow)};
}
PALIMPSEST_INLINE bool has_odd(Floats v) {
    return _mm256_movemask_ps(_mm256_or_ps(_mm256_cmp_ps(v.low, v.low, _CMP_UNORD_Q),
                                           _mm256_cmp_ps(v.high, v.high, _CMP_UNORD_Q))) != 0;
}
PALIMPSEST_INLINE __m256 low(Floats v) { return v.low; }
PALIMPSEST_INLINE __m256 high(Floats v) { return v.high; }
/// Whole numbers from 0 to 255.
PALIMPSEST_INLINE void store_as_bytes(Floats v, std::byte* to) {
    const __m256i words = _mm256_permute4x64_epi64(
        _mm256_packs_epi32(_mm256_cvtps_epi32(v.low), _mm256_cvtps_epi32(v.high)), 0xD8);
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(to),
        _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

#ifdef PALIMPSEST_AVX_VNNI

/// May the sums of two groups of 16 be added before they are finished?
template <Reach kReach>
constexpr bool kCarries = true;

template <Reach kReach>
PALIMPSEST_INLINE __m256i add_products(__m256i sums, __m256i x, __m256i w) {
    return _mm256_dpbusd_avx_epi32(sums, x, w);
}
template <Reach kReach>
PALIMPSEST_INLINE __m256i finished(__m256i sums) {
    return sums;
}

#else

template <Reach kReach>
constexpr bool kCarries = kReach != Reach::k16;

/// Sums of two products are 16 bits wide: of numbers up to 16, four such sums can be added before
/// they are made wider; of numbers up to 128, two products are too many, so that x is halved first.
template <Reach kReach>
PALIMPSEST_INLINE __m256i add_products(__m256i sums, __m256i x, __m256i w) {
    const __m256i ones = _mm256_set1_epi16(1);
    if constexpr (kReach == Reach::k16) {
        return _mm256_add_epi16(sums, _mm256_maddubs_epi16(x, w));
    } else if constexpr (kReach == Reach::k32) {
        return _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), ones));
    } else {
        const __m256i half = _mm256_and_si256(_mm256_srli_epi16(x, 1), _mm256_set1_epi8(0x7F));
        const __m256i rest = _mm256_and_si256(x, _mm256_set1_epi8(1));
        const __m256i twos = _mm256_madd_epi16(_mm256_maddubs_epi16(half, w), _mm256_set1_epi16(2));
        const __m256i last = _mm256_madd_epi16(_mm256_maddubs_epi16(rest, w), ones);
        return _mm256_add_epi32(sums, _mm256_add_epi32(twos, last));
    }
}
template <Reach kReach>
PALIMPSEST_INLINE __m256i finished(__m256i sums) {
    return kReach == Reach::k16 ? _mm256_madd_epi16(sums, _mm256_set1_epi16(1)) : sums;
}

#endif

/// Sums of four products each, added to `sums`, which hold what `Reach` allows (int8_types-inl.h).
template <Reach kReach>
PALIMPSEST_INLINE Bytes add_products(Bytes sums, Bytes x, Bytes w) {
    return {add_products<kReach>(sums.low, x.low, w.low),
            add_products<kReach>(sums.high, x.high, w.high)};
}
/// Sums of up to four times four products, a lane each.
template <Reach kReach>
PALIMPSEST_INLINE Bytes finished(Bytes sums) {
    return {finished<kReach>(sums.low), finished<kReach>(sums.high)};
}

PALIMPSEST_INLINE __m256i nibbles(const std::byte* at) {
    const __m256i shifts = _mm256_set_epi32(4, 4, 4, 4, 0, 0, 0, 0);
    return _mm256_and_si256(_mm256_srlv_epi32(load_16_twice(at), shifts), _mm256_set1_epi8(15));
}
/// Two blocks of 16 bytes: low halves of the bytes, then high ones, of each.
PALIMPSEST_INLINE Bytes nibbles(const std::byte* first, const std::byte* second) {
    return {nibbles(first), nibbles(second)};
}

PALIMPSEST_INLINE __m256i sixteens(uint32_t bits) {
    const __m256i bytes = _mm256_shuffle_epi8(
        _mm256_set1_epi32(static_cast<int>(bits)),
        _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0));
    const __m256i own = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
    return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(bytes, own), own),
                            _mm256_set1_epi8(16));
}
/// 16 where a bit is set.
PALIMPSEST_INLINE Bytes sixteens(uint64_t bits) {
    return {sixteens(static_cast<uint32_t>(bits)), sixteens(static_cast<uint32_t>(bits >> 32U))};
}

/// Two numbers, each for half of the lanes.
PALIMPSEST_INLINE Floats halves(float first, float second) {
    return {_mm256_set1_ps(first), _mm256_set1_ps(second)};
}
PALIMPSEST_INLINE Floats f16_halves(const std::byte* first, const std::byte* second) {
    return {_mm256_cvtph_ps(_mm_set1_epi16(read<int16_t>(first))),
            _mm256_cvtph_ps(_mm_set1_epi16(read<int16_t>(second)))};
}
/// Four numbers, each for four lanes.
PALIMPSEST_INLINE Bytes quarters(__m128i four) {
    const __m256i v = _mm256_castsi128_si256(four);
    return {_mm256_permutevar8x32_epi32(v, _mm256_set_epi32(1, 1, 1, 1, 0, 0, 0, 0)),
            _mm256_permutevar8x32_epi32(v, _mm256_set_epi32(3, 3, 3, 3, 2, 2, 2, 2))};
}
PALIMPSEST_INLINE Floats as_floats(Bytes v) {
    return {_mm256_castsi256_ps(v.low), _mm256_castsi256_ps(v.high)};
}
PALIMPSEST_INLINE __m256 one_of_each(__m256 a, __m256 b, __m256 c, __m256 d) {
    return _mm256_blend_ps(_mm256_blend_ps(a, b, 0x22), _mm256_blend_ps(c, d, 0x88), 0xCC);
}
/// Lanes 4 g + j of vector j.
PALIMPSEST_INLINE Floats one_of_each(Floats a, Floats b, Floats c, Floats d) {
    return {one_of_each(a.low, b.low, c.low, d.low), one_of_each(a.high, b.high, c.high, d.high)};
}
PALIMPSEST_INLINE void transpose_fours(__m256i* v) {
    const __m256i t[4] = {_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[0], v[1]),
                          _mm256_unpacklo_epi32(v[2], v[3]), _mm256_unpackhi_epi32(v[2], v[3])};
    v[0] = _mm256_unpacklo_epi64(t[0], t[2]);
    v[1] = _mm256_unpackhi_epi64(t[0], t[2]);
    v[2] = _mm256_unpacklo_epi64(t[1], t[3]);
    v[3] = _mm256_unpackhi_epi64(t[1], t[3]);
}
/// v[i] lane 4 g + j becomes v[j] lane 4 g + i.
PALIMPSEST_INLINE void transpose_fours(Bytes* v) {
    __m256i low[4] = {v[0].low, v[1].low, v[2].low, v[3].low};
    __m256i high[4] = {v[0].high, v[1].high, v[2].high, v[3].high};
    transpose_fours(low);
    transpose_fours(high);
    for (int i = 0; i < 4; ++i) v[i] = {low[i], high[i]};
}
/// Of each lane, the number in its first byte.
PALIMPSEST_INLINE Bytes first_bytes(Bytes v) {
    const __m256i first = _mm256_set1_epi32(255);
    return {_mm256_and_si256(v.low, first), _mm256_and_si256(v.high, first)};
}
/// Lane 4 k.
template <int kQuarter>
PALIMPSEST_INLINE float first_of(Floats v) {
    return _mm_cvtss_f32(_mm256_extractf128_ps(kQuarter < 2 ? v.low : v.high, kQuarter % 2));
}

/// r[i] lane j becomes r[j] lane i.
PALIMPSEST_INLINE void transpose_8x8(__m256i* r) {
    __m256i t[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int j = 0; j < 4; ++j) {
        t[j] = _mm256_permute2x128_si256(r[j], r[4 + j], 0x20);
        t[4 + j] = _mm256_permute2x128_si256(r[j], r[4 + j], 0x31);
    }
    for (int i = 0; i < 8; ++i) r[i] = t[i];
}

PALIMPSEST_INLINE void transpose_16x16(Bytes* r) {
    __m256i quarters[4][8];
    for (int i = 0; i < 8; ++i) {
        quarters[0][i] = r[i].low;
        quarters[1][i] = r[i].high;
        quarters[2][i] = r[8 + i].low;
        quarters[3][i] = r[8 + i].high;
    }
    for (auto& quarter : quarters) transpose_8x8(quarter);
    for (int i = 0; i < 8; ++i) {
        r[i] = {quarters[0][i], quarters[2][i]};
        r[8 + i] = {quarters[1][i], quarters[3][i]};
    }
}
