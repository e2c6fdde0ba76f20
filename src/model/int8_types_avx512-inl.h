// Stored types, for int8_kernel.cpp alone: included inside its namespace, where code for AVX-512 is
// compiled. Every type is a struct: what a pair of groups, 64 numbers, comes to. Layouts are ggml's
// (ggml-common.h, quantize_row_*).

/// 64 numbers and what makes weights of them; a lane for each four of them.
struct Pair {
    __m512i numbers;
    __m512 scale, offset;  // the latter for types that have one
};

template <class Value>
PALIMPSEST_INLINE Value read(const std::byte* at) {
    Value value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

PALIMPSEST_INLINE float f16_at(const std::byte* at) {
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(read<uint16_t>(at))));
}

/// Two f16, each for half of the lanes.
PALIMPSEST_INLINE __m512 halves(const std::byte* first, const std::byte* second) {
    const __m256i both = _mm256_mask_set1_epi16(_mm256_set1_epi16(read<int16_t>(first)), 0xFF00,
                                                read<int16_t>(second));
    return _mm512_cvtph_ps(both);
}

/// Two numbers, each for half of the lanes.
PALIMPSEST_INLINE __m512 halves(float first, float second) {
    return _mm512_mask_blend_ps(0xFF00, _mm512_set1_ps(first), _mm512_set1_ps(second));
}

PALIMPSEST_INLINE __m256i load_32(const std::byte* at) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
}

/// 16 bytes, twice.
PALIMPSEST_INLINE __m256i load_16_twice(const std::byte* at) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
}

PALIMPSEST_INLINE __m512i join(__m256i low, __m256i high) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/// Of two blocks of 16 bytes: low halves of the bytes, then high ones, of each.
PALIMPSEST_INLINE __m512i nibbles(const std::byte* first, const std::byte* second) {
    const __m512i shifts = _mm512_set_epi64(4 * 0x100000001LL, 4 * 0x100000001LL, 0, 0,
                                            4 * 0x100000001LL, 4 * 0x100000001LL, 0, 0);
    return _mm512_and_si512(
        _mm512_srlv_epi32(join(load_16_twice(first), load_16_twice(second)), shifts),
        _mm512_set1_epi8(15));
}

/// Numbers that are stored with `zero` added.
PALIMPSEST_INLINE __m512i without(char zero, __m512i numbers) {
    return _mm512_sub_epi8(numbers, _mm512_set1_epi8(zero));
}

/// Blocks of 32 with an f16 scale.
struct Q4_0 {
    static constexpr int64_t kBlock = 32, kBytes = 18, kGroupSize = 32;
    static constexpr bool kHasOffset = false;
    static PALIMPSEST_INLINE Pair pair(const std::byte* at, int64_t /*within*/) {
        return {without(8, nibbles(at + 2, at + kBytes + 2)), halves(at, at + kBytes),
                _mm512_setzero_ps()};
    }
};

/// Blocks of 32 with an f16 scale and an f16 offset.
struct Q4_1 {
    static constexpr int64_t kBlock = 32, kBytes = 20, kGroupSize = 32;
    static constexpr bool kHasOffset = true;
    static PALIMPSEST_INLINE Pair pair(const std::byte* at, int64_t /*within*/) {
        return {nibbles(at + 4, at + kBytes + 4), halves(at, at + kBytes),
                halves(at + 2, at + kBytes + 2)};
    }
};

/// Fifth bits of two blocks, one after another.
PALIMPSEST_INLINE __m512i with_fifth_bits(__m512i numbers, const std::byte* first,
                                          const std::byte* second) {
    const uint64_t bits = read<uint32_t>(first) | uint64_t{read<uint32_t>(second)} << 32U;
    return _mm512_or_si512(numbers, _mm512_maskz_set1_epi8(bits, 16));
}

struct Q5_0 {
    static constexpr int64_t kBlock = 32, kBytes = 22, kGroupSize = 32;
    static constexpr bool kHasOffset = false;
    static PALIMPSEST_INLINE Pair pair(const std::byte* at, int64_t /*within*/) {
        const __m512i numbers =
            with_fifth_bits(nibbles(at + 6, at + kBytes + 6), at + 2, at + kBytes + 2);
        return {without(16, numbers), halves(at, at + kBytes), _mm512_setzero_ps()};
    }
};

struct Q5_1 {
    static constexpr int64_t kBlock = 32, kBytes = 24, kGroupSize = 32;
    static constexpr bool kHasOffset = true;
    static PALIMPSEST_INLINE Pair pair(const std::byte* at, int64_t /*within*/) {
        const __m512i numbers =
            with_fifth_bits(nibbles(at + 8, at + kBytes + 8), at + 4, at + kBytes + 4);
        return {numbers, halves(at, at + kBytes), halves(at + 2, at + kBytes + 2)};
    }
};

struct Q8_0 {
    static constexpr int64_t kBlock = 32, kBytes = 34, kGroupSize = 32;
    static constexpr bool kHasOffset = false;
    static PALIMPSEST_INLINE Pair pair(const std::byte* at, int64_t /*within*/) {
        return {join(load_32(at + 2), load_32(at + kBytes + 2)), halves(at, at + kBytes),
                _mm512_setzero_ps()};
    }
};

/// The scales and offsets of a block of 256 in Q4_K and Q5_K: two f16 that count for all, then
/// twelve bytes with eight pairs of 6 bits. Those of groups 2i and 2i + 1.
struct SixBits {
    __m512 scale, offset;

    PALIMPSEST_INLINE SixBits(const std::byte* at, int64_t within) {
        const float d = f16_at(at);
        const float least = f16_at(at + 2);
        const auto byte = [at](int64_t i) { return std::to_integer<uint32_t>(at[4 + i]); };
        std::array<float, 2> s{};
        std::array<float, 2> m{};
        for (int64_t i = 0; i < 2; ++i) {
            const int64_t g = 2 * within + i;
            const uint32_t scale_bits =
                g < 4 ? byte(g) & 63U : (byte(g + 4) & 15U) | (byte(g - 4) >> 6U) << 4U;
            const uint32_t offset_bits =
                g < 4 ? byte(g + 4) & 63U : byte(g + 4) >> 4U | (byte(g) >> 6U) << 4U;
            s[static_cast<size_t>(i)] = d * static_cast<float>(scale_bits);
            m[static_cast<size_t>(i)] = -least * static_cast<float>(offset_bits);
        }
        scale = halves(s[0], s[1]);
        offset = halves(m[0], m[1]);
    }
};

/// Low halves of 32 bytes, then high ones.
PALIMPSEST_INLINE __m512i wide_nibbles(const std::byte* at) {
    const __m256i bytes = load_32(at);
    return _mm512_and_si512(join(bytes, _mm256_srli_epi16(bytes, 4)), _mm512_set1_epi8(15));
}

struct Q4_K {
    static constexpr int64_t kBlock = 256, kBytes = 144, kGroupSize = 32;
    static constexpr bool kHasOffset = true;
    static PALIMPSEST_INLINE Pair pair(const std::byte* at, int64_t within) {
        const SixBits bits(at, within);
        return {wide_nibbles(at + 16 + 32 * within), bits.scale, bits.offset};
    }
};

struct Q5_K {
    static constexpr int64_t kBlock = 256, kBytes = 176, kGroupSize = 32;
    static constexpr bool kHasOffset = true;
    static PALIMPSEST_INLINE Pair pair(const std::byte* at, int64_t within) {
        const SixBits bits(at, within);
        const __m256i fifth = load_32(at + 16);
        const auto set = [fifth](int64_t bit) {
            return _mm256_test_epi8_mask(fifth, _mm256_set1_epi8(static_cast<char>(1U << bit)));
        };
        const uint64_t mask = set(2 * within) | uint64_t{set(2 * within + 1)} << 32U;
        const __m512i numbers = wide_nibbles(at + 48 + 32 * within);
        return {_mm512_or_si512(numbers, _mm512_maskz_set1_epi8(mask, 16)), bits.scale,
                bits.offset};
    }
};

/// 128 bytes of low halves, 64 of two high bits each, 16 signed scales, an f16 scale of them. Two
/// pairs come of one half of a block: of the bytes' low bits, then of their high ones.
struct Q6_K {
    static constexpr int64_t kBlock = 256, kBytes = 210, kGroupSize = 16;
    static constexpr bool kHasOffset = false;
    static PALIMPSEST_INLINE Pair pair(const std::byte* at, int64_t within) {
        const int64_t half = within / 2;
        const bool upper = within % 2 == 1;
        const __m512i bytes = _mm512_loadu_si512(at + 64 * half);
        const __m512i low =
            _mm512_and_si512(upper ? _mm512_srli_epi16(bytes, 4) : bytes, _mm512_set1_epi8(15));
        const __m256i two = load_32(at + 128 + 32 * half);
        const __m256i moved = upper ? _mm256_srli_epi16(two, 4) : two;
        const __m512i high =
            _mm512_and_si512(join(moved, _mm256_srli_epi16(moved, 2)), _mm512_set1_epi8(3));
        const __m512i numbers = _mm512_or_si512(low, _mm512_slli_epi16(high, 4));
        // Four scales, each for four lanes.
        const __m128i four = _mm_cvtepi8_epi32(_mm_cvtsi32_si128(read<int>(at + 192 + 4 * within)));
        const __m512i order = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
        const __m512 scale = _mm512_mul_ps(
            _mm512_cvtepi32_ps(_mm512_permutexvar_epi32(order, _mm512_castsi128_si512(four))),
            _mm512_set1_ps(f16_at(at + 208)));
        return {without(32, numbers), scale, _mm512_setzero_ps()};
    }
};

/// Pair i of a feature whose blocks start at `row`. A last block without a partner is paired with
/// `spare`, where it stands before a block of zeros.
template <class T>
PALIMPSEST_INLINE Pair pair_of(const std::byte* row, int64_t i, const std::byte* spare) {
    if constexpr (T::kBlock == kGroup) {
        return T::pair(spare != nullptr ? spare : row + 2 * i * T::kBytes, 0);
    } else {
        constexpr int64_t kPairs = T::kBlock / kPair;
        return T::pair(row + i / kPairs * T::kBytes, i % kPairs);
    }
}

template <class T>
struct Spare {
    std::array<std::byte, static_cast<size_t>(2 * T::kBytes)> blocks{};

    /// The last block of a row of `inner` numbers; nullptr where all have partners.
    const std::byte* of(const std::byte* row, int64_t inner) {
        if (inner % kPair == 0) return nullptr;
        std::memcpy(blocks.data(), row + (inner / T::kBlock - 1) * T::kBytes, T::kBytes);
        return blocks.data();
    }
};
