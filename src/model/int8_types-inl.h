// Stored types, for int8_kernel-inl.h alone. Every type is a struct: what a pair of blocks of 32
// numbers comes to. Layouts are ggml's (ggml-common.h, quantize_row_*).

/// 64 numbers and what makes weights of them; a lane for each four of them.
struct Pair {
    Bytes numbers;
    Floats scale, offset;  // the latter for types that have one
};

/// Numbers that are stored with `zero` added.
PALIMPSEST_INLINE Bytes without(char zero, Bytes numbers) {
    return minus_bytes(numbers, all_bytes(zero));
}

/// Blocks of 32 with an f16 scale.
struct Q4_0 {
    static constexpr int64_t kBlock = 32, kBytes = 18, kGroupSize = 32;
    static constexpr bool kHasOffset = false;
    static constexpr Reach kReach = Reach::k16;
    static PALIMPSEST_INLINE Pair pair(const std::byte* at, int64_t /*within*/) {
        return {without(8, nibbles(at + 2, at + kBytes + 2)), f16_halves(at, at + kBytes),
                no_floats()};
    }
};

/// Blocks of 32 with an f16 scale and an f16 offset.
struct Q4_1 {
    static constexpr int64_t kBlock = 32, kBytes = 20, kGroupSize = 32;
    static constexpr bool kHasOffset = true;
    static constexpr Reach kReach = Reach::k16;
    static PALIMPSEST_INLINE Pair pair(const std::byte* at, int64_t /*within*/) {
        return {nibbles(at + 4, at + kBytes + 4), f16_halves(at, at + kBytes),
                f16_halves(at + 2, at + kBytes + 2)};
    }
};

/// With the fifth bits of two blocks.
PALIMPSEST_INLINE Bytes with_fifth_bits(Bytes numbers, const std::byte* first,
                                        const std::byte* second) {
    return either(numbers,
                  sixteens(read<uint32_t>(first) | uint64_t{read<uint32_t>(second)} << 32U));
}

struct Q5_0 {
    static constexpr int64_t kBlock = 32, kBytes = 22, kGroupSize = 32;
    static constexpr bool kHasOffset = false;
    static constexpr Reach kReach = Reach::k16;
    static PALIMPSEST_INLINE Pair pair(const std::byte* at, int64_t /*within*/) {
        const Bytes numbers =
            with_fifth_bits(nibbles(at + 6, at + kBytes + 6), at + 2, at + kBytes + 2);
        return {without(16, numbers), f16_halves(at, at + kBytes), no_floats()};
    }
};

struct Q5_1 {
    static constexpr int64_t kBlock = 32, kBytes = 24, kGroupSize = 32;
    static constexpr bool kHasOffset = true;
    static constexpr Reach kReach = Reach::k32;
    static PALIMPSEST_INLINE Pair pair(const std::byte* at, int64_t /*within*/) {
        const Bytes numbers =
            with_fifth_bits(nibbles(at + 8, at + kBytes + 8), at + 4, at + kBytes + 4);
        return {numbers, f16_halves(at, at + kBytes), f16_halves(at + 2, at + kBytes + 2)};
    }
};

struct Q8_0 {
    static constexpr int64_t kBlock = 32, kBytes = 34, kGroupSize = 32;
    static constexpr bool kHasOffset = false;
    static constexpr Reach kReach = Reach::k128;
    static PALIMPSEST_INLINE Pair pair(const std::byte* at, int64_t /*within*/) {
        return {join(load_32(at + 2), load_32(at + kBytes + 2)), f16_halves(at, at + kBytes),
                no_floats()};
    }
};

/// The scales and offsets of a block of 256 in Q4_K and Q5_K: two f16 that count for all, then
/// twelve bytes with eight pairs of 6 bits. Those of groups 2i and 2i + 1.
struct SixBits {
    Floats scale, offset;

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
PALIMPSEST_INLINE Bytes wide_nibbles(const std::byte* at) {
    const __m256i bytes = load_32(at);
    const __m256i least = _mm256_set1_epi8(15);
    return join(_mm256_and_si256(bytes, least),
                _mm256_and_si256(_mm256_srli_epi16(bytes, 4), least));
}

struct Q4_K {
    static constexpr int64_t kBlock = 256, kBytes = 144, kGroupSize = 32;
    static constexpr bool kHasOffset = true;
    static constexpr Reach kReach = Reach::k16;
    static PALIMPSEST_INLINE Pair pair(const std::byte* at, int64_t within) {
        const SixBits bits(at, within);
        return {wide_nibbles(at + 16 + 32 * within), bits.scale, bits.offset};
    }
};

struct Q5_K {
    static constexpr int64_t kBlock = 256, kBytes = 176, kGroupSize = 32;
    static constexpr bool kHasOffset = true;
    static constexpr Reach kReach = Reach::k32;
    static PALIMPSEST_INLINE Pair pair(const std::byte* at, int64_t within) {
        const SixBits bits(at, within);
        const __m256i fifth = load_32(at + 16);
        // Bit 2i of a byte is the first group's, 2i + 1 the second's.
        const __m256i sixteen = _mm256_set1_epi8(16);
        const __m256i moved =
            _mm256_srl_epi16(fifth, _mm_cvtsi32_si128(static_cast<int>(2 * within)));
        const Bytes sixteens = join(_mm256_and_si256(_mm256_slli_epi16(moved, 4), sixteen),
                                    _mm256_and_si256(_mm256_slli_epi16(moved, 3), sixteen));
        return {either(wide_nibbles(at + 48 + 32 * within), sixteens), bits.scale, bits.offset};
    }
};

/// 128 bytes of low halves, 64 of two high bits each, 16 signed scales, an f16 scale of them. Two
/// pairs come of one half of a block: of the bytes' low bits, then of their high ones.
struct Q6_K {
    static constexpr int64_t kBlock = 256, kBytes = 210, kGroupSize = 16;
    static constexpr bool kHasOffset = false;
    static constexpr Reach kReach = Reach::k32;
    static PALIMPSEST_INLINE Pair pair(const std::byte* at, int64_t within) {
        const int64_t half = within / 2;
        const bool upper = within % 2 == 1;
        const __m256i least = _mm256_set1_epi8(15);
        const auto lower_four = [&](const std::byte* from) {
            const __m256i bytes = load_32(from);
            return _mm256_and_si256(upper ? _mm256_srli_epi16(bytes, 4) : bytes, least);
        };
        const __m256i two = load_32(at + 128 + 32 * half);
        const __m256i moved = upper ? _mm256_srli_epi16(two, 4) : two;
        const __m256i bits = _mm256_set1_epi8(0x30);
        const Bytes low = join(lower_four(at + 64 * half), lower_four(at + 64 * half + 32));
        const Bytes high = join(_mm256_and_si256(_mm256_slli_epi16(moved, 4), bits),
                                _mm256_and_si256(_mm256_slli_epi16(moved, 2), bits));
        const __m128i scales =
            _mm_cvtepi8_epi32(_mm_cvtsi32_si128(read<int>(at + 192 + 4 * within)));
        return {without(32, either(low, high)),
                times(to_floats(quarters(scales)), all(f16_at(at + 208))), no_floats()};
    }
};

/// Pair i of a feature whose blocks start at `row`. A last block without a partner is paired with
/// `spare`, where it stands before a block of zeros.
template <class T>
PALIMPSEST_INLINE Pair pair_of(const std::byte* row, int64_t i, const std::byte* spare) {
    if constexpr (T::kBlock < kPair) {
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
