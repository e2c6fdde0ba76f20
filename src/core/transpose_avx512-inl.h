// To be included where code for AVX-512 is compiled, after <immintrin.h>; hence no guard against
// being used elsewhere and no namespace of its own.

/// r[i] lane j becomes r[j] lane i.
inline __attribute__((always_inline)) void transpose_16x16(__m512i* r) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    constexpr int kEven = 0x88;
    constexpr int kOdd = 0xDD;
    for (int j = 0; j < 4; ++j) {
        t[j] = _mm512_shuffle_i32x4(r[j], r[4 + j], kEven);
        t[4 + j] = _mm512_shuffle_i32x4(r[j], r[4 + j], kOdd);
        t[8 + j] = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], kEven);
        t[12 + j] = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], kOdd);
    }
    for (int j = 0; j < 4; ++j) {
        r[j] = _mm512_shuffle_i32x4(t[j], t[8 + j], kEven);
        r[8 + j] = _mm512_shuffle_i32x4(t[j], t[8 + j], kOdd);
        r[4 + j] = _mm512_shuffle_i32x4(t[4 + j], t[12 + j], kEven);
        r[12 + j] = _mm512_shuffle_i32x4(t[4 + j], t[12 + j], kOdd);
    }
}
