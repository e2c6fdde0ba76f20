// Integer products, for one set of instructions: included once for each, after int8_kernels.h,
// inside its namespace, where code for the set is compiled, so that nothing of it is chosen by a
// linker for other processors. PALIMPSEST_INT8_VECTORS names what vectors are there. Highway's
// version here lacks the instructions, hence intrinsics.
//
// Every stored type comes to one form: 64 signed numbers and, for each 16 sums of four products, a
// scale and, for some types, an offset:
//
//     weight = scale * number + offset,
//
// and every group of 16 of a row to another, with unsigned numbers and a zero among them:
//
//     x = row's scale * (number - zero).

#define PALIMPSEST_INLINE inline __attribute__((always_inline))

constexpr int64_t kGroup = 16;  // of a row
constexpr int64_t kPair = 64;   // numbers in a vector
constexpr int kLanes = 16;      // features in a vector of a tile
constexpr int kVectors = 2;     // of them, in a step
constexpr int64_t kLine = 64;

static_assert(kVectors * kLanes == Int8Tile::kStep);

/// How far from zero a type's numbers lie, or less.
enum class Reach { k16, k32, k128 };

template <class Value>
PALIMPSEST_INLINE Value read(const std::byte* at) {
    Value value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

PALIMPSEST_INLINE float f16_at(const std::byte* at) {
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(read<uint16_t>(at))));
}

PALIMPSEST_INLINE __m256i load_32(const std::byte* at) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
}

/// 16 bytes, twice.
PALIMPSEST_INLINE __m256i load_16_twice(const std::byte* at) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
}

#include PALIMPSEST_INT8_VECTORS

#include "model/int8_types-inl.h"

// ---- rows ---------------------------------------------------------------------------------------

PALIMPSEST_INLINE int64_t whole_pairs(int64_t inner) { return (inner + kPair - 1) / kPair * kPair; }

/// Where the parts of a rounded row are, after its numbers. Of each group: its scale, -scale *
/// zero, and its zero in each of four bytes; of every two groups, what all their numbers stand for.
struct RowLayout {
    int64_t scales, offsets, zeros, sums;

    explicit RowLayout(int64_t inner)
        : scales(whole_pairs(inner)),
          offsets(scales + whole_pairs(inner) / kGroup * 4),
          zeros(offsets + whole_pairs(inner) / kGroup * 4),
          sums(zeros + whole_pairs(inner) / kGroup * 4) {}
};

struct Row {
    const std::byte* numbers;
    const std::byte* scales;
    const std::byte* zeros;
    const std::byte* sums;

    Row(const std::byte* at, const RowLayout& l)
        : numbers(at), scales(at + l.scales), zeros(at + l.zeros), sums(at + l.sums) {}
};

struct Least {
    PALIMPSEST_INLINE __m256 operator()(__m256 a, __m256 b) const { return _mm256_min_ps(a, b); }
};
struct Greatest {
    PALIMPSEST_INLINE __m256 operator()(__m256 a, __m256 b) const { return _mm256_max_ps(a, b); }
};
struct Sum {
    PALIMPSEST_INLINE __m256 operator()(__m256 a, __m256 b) const { return _mm256_add_ps(a, b); }
};

/// Combines the lanes of each of four vectors.
template <class Combine>
PALIMPSEST_INLINE __m128 across(const Combine& combine, const Floats* v) {
    __m256 half[4];
    for (int i = 0; i < 4; ++i) half[i] = combine(low(v[i]), high(v[i]));
    const auto both = [&](__m256 a, __m256 b) {
        return combine(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    };
    const __m256 first = both(half[0], half[1]);
    const __m256 second = both(half[2], half[3]);
    // Two lanes for each: of the first, the third; the second, the fourth.
    __m256 lanes =
        combine(_mm256_shuffle_ps(first, second, 0x44), _mm256_shuffle_ps(first, second, 0xEE));
    lanes = combine(lanes, _mm256_permute_ps(lanes, 0xB1));
    const __m128 odd = _mm256_castps256_ps128(lanes);
    const __m128 even = _mm256_extractf128_ps(lanes, 1);
    return _mm_movelh_ps(_mm_unpacklo_ps(odd, even), _mm_unpackhi_ps(odd, even));
}

/// What the two groups of a pair have in common.
template <class Combine>
PALIMPSEST_INLINE __m128 both_of(const Combine& combine, __m128 groups) {
    return combine(groups, _mm_shuffle_ps(groups, groups, 0xB1));
}

/// Rounds the four groups of pair i, or two of 32 numbers, each of them written as two.
PALIMPSEST_INLINE void round_pair(const float* from, RowGroups groups, std::byte* row,
                                  const RowLayout& l, int64_t i) {
    constexpr float kMost = 255;
    const __m128 nothing = _mm_setzero_ps();
    const __m128 most = _mm_set1_ps(kMost);
    const __m128 least_range = _mm_set1_ps(1e-35F);  // below it 255 / range overflows
    const __m128 greatest_range = _mm_set1_ps(std::numeric_limits<float>::max());
    Floats x[4];
    std::array<int, 4> odd{};  // what comparisons lose: is there something that is no number?
    for (int g = 0; g < 4; ++g) {
        x[g] = load(from + g * kGroup);
        odd[static_cast<size_t>(g)] = has_odd(x[g]) ? -1 : 0;
    }
    __m128 least = _mm_min_ps(across(Least(), x), nothing);
    __m128 greatest = _mm_max_ps(across(Greatest(), x), nothing);
    __m128 is_odd = _mm_castsi128_ps(_mm_set_epi32(odd[3], odd[2], odd[1], odd[0]));
    if (groups == RowGroups::k32) {
        least = both_of([](__m128 a, __m128 b) { return _mm_min_ps(a, b); }, least);
        greatest = both_of([](__m128 a, __m128 b) { return _mm_max_ps(a, b); }, greatest);
        is_odd = both_of([](__m128 a, __m128 b) { return _mm_or_ps(a, b); }, is_odd);
    }
    const __m128 range = _mm_sub_ps(greatest, least);
    const __m128 is_some = _mm_cmpge_ps(range, least_range);
    const __m128 is_finite = _mm_andnot_ps(is_odd, _mm_cmple_ps(range, greatest_range));
    const __m128 usable = _mm_and_ps(is_some, is_finite);
    const __m128 factor = _mm_and_ps(usable, _mm_div_ps(most, range));
    const __m128 scale = _mm_blendv_ps(_mm_set1_ps(std::numeric_limits<float>::quiet_NaN()),
                                       _mm_and_ps(is_some, _mm_div_ps(range, most)), is_finite);
    const __m128i zero =
        _mm_cvtps_epi32(_mm_mul_ps(_mm_and_ps(usable, _mm_sub_ps(nothing, least)), factor));
    const __m128 zero_f32 = _mm_cvtepi32_ps(zero);
    alignas(16) std::array<float, 4> factors{};
    alignas(16) std::array<float, 4> zeros{};
    _mm_store_ps(factors.data(), factor);
    _mm_store_ps(zeros.data(), zero_f32);
    Floats numbers[4];
    for (int g = 0; g < 4; ++g) {
        const auto at = static_cast<size_t>(g);
        numbers[g] =
            least_of(plus(whole(times(x[g], all(factors[at]))), all(zeros[at])), all(kMost));
        store_as_bytes(numbers[g], row + i * kPair + g * kGroup);
    }
    const auto part = [row, i](int64_t at) { return reinterpret_cast<float*>(row + at) + 4 * i; };
    _mm_storeu_ps(part(l.scales), scale);
    _mm_storeu_ps(part(l.offsets), _mm_fnmadd_ps(scale, zero_f32, nothing));
    _mm_storeu_ps(part(l.zeros),
                  _mm_castsi128_ps(_mm_mullo_epi32(zero, _mm_set1_epi32(0x01010101))));
    const __m128 sums =
        _mm_mul_ps(scale, _mm_fnmadd_ps(_mm_set1_ps(kGroup), zero_f32, across(Sum(), numbers)));
    const __m128 of_two = _mm_add_ps(sums, _mm_movehdup_ps(sums));
    _mm_storel_pi(reinterpret_cast<__m64*>(row + l.sums + i * 8),
                  _mm_shuffle_ps(of_two, of_two, 0x08));
}

void round_row(const float* x, int64_t first, int64_t count, int64_t inner, RowGroups groups,
               std::byte* row) {
    const RowLayout layout(inner);
    int64_t i = 0;
    for (; i + kPair <= count; i += kPair)
        round_pair(x + i, groups, row, layout, (first + i) / kPair);
    if (i == count) return;
    std::array<float, kPair> last{};
    std::copy(x + i, x + count, last.begin());
    round_pair(last.data(), groups, row, layout, (first + i) / kPair);
}

/// Sum of all lanes.
PALIMPSEST_INLINE float sum_of(Floats v) {
    const __m256 eight = _mm256_add_ps(low(v), high(v));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

void norm_row(const float* x, const float* weight, int64_t n, float epsilon, float* to) {
    Floats squares[2] = {no_floats(), no_floats()};
    for (int64_t i = 0; i < n; i += 2 * kLanes) {
        for (int k = 0; k < 2; ++k) {
            const Floats v = load(x + i + k * kLanes);
            squares[k] = times_plus(v, v, squares[k]);
        }
    }
    const float sum = sum_of(plus(squares[0], squares[1]));
    const Floats scale = all(1 / std::sqrt(sum / static_cast<float>(n) + epsilon));
    for (int64_t i = 0; i < n; i += kLanes) {
        store(times(times(load(x + i), scale), load(weight + i)), to + i);
    }
}

#include "model/int8_few-inl.h"

// ---- many rows ----------------------------------------------------------------------------------

/// One step of a tile: numbers [inner / 4][2 vectors][16 features][4], then, all [groups][2
/// vectors][16 features], scales, for types that have them offsets, and scaled sums of 16 numbers
/// each.
struct StepLayout {
    int64_t scales, offsets, sums, bytes;

    template <class T>
    static StepLayout of(int64_t inner) {
        const auto part = [inner](int64_t group) {
            return whole_pairs(inner) / group * Int8Tile::kStep * 4;
        };
        StepLayout l{};
        l.scales = whole_pairs(inner) * Int8Tile::kStep;
        l.offsets = l.scales + part(T::kGroupSize);
        l.sums = l.offsets + (T::kHasOffset ? part(T::kGroupSize) : 0);
        l.bytes = l.sums + part(kGroup);
        return l;
    }
};

template <class T>
int64_t step_bytes(int64_t inner) {
    return StepLayout::of<T>(inner).bytes;
}

/// What 16 features share a scale in, of a pair's lanes.
template <class T>
PALIMPSEST_INLINE void store_groups(Floats from, float* to) {
    constexpr int64_t kNext = Int8Tile::kStep;
    to[0] = first_of<0>(from);
    if constexpr (T::kGroupSize == 2 * kGroup) {
        to[kNext] = first_of<2>(from);
    } else {
        to[kNext] = first_of<1>(from);
        to[2 * kNext] = first_of<2>(from);
        to[3 * kNext] = first_of<3>(from);
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
        const auto at = [&](int64_t part, int64_t groups, int64_t group) {
            return reinterpret_cast<float*>(step + part) +
                   ((i * groups + group) * kVectors + v) * kLanes;
        };
        Bytes numbers[kLanes];
        for (size_t f = 0; f < kLanes; ++f) {
            const std::byte* spare = is_spare ? spares[f].of(features[f], inner) : nullptr;
            const Pair p = pair_of<T>(features[f], i, spare);
            numbers[f] = p.numbers;
            store_groups<T>(p.scale, at(layout.scales, kGroups, 0) + f);
            if constexpr (T::kHasOffset) {
                store_groups<T>(p.offset, at(layout.offsets, kGroups, 0) + f);
            }
        }
        transpose_16x16(numbers);
        for (int64_t k = 0; k < kLanes; ++k) {
            store(numbers[k], step + ((i * kLanes + k) * kVectors + v) * kLine);
        }
        constexpr int64_t kFours = kGroup / 4;
        for (int64_t g = 0; g < kPair / kGroup; ++g) {
            Bytes sum = no_bytes();
            for (int64_t k = 0; k < kFours; ++k) {
                sum = add_products<T::kReach>(sum, all_bytes(1), numbers[g * kFours + k]);
            }
            const Floats scale = load(at(layout.scales, kGroups, g * kGroup / T::kGroupSize));
            store(times(to_floats(finished<T::kReach>(sum)), scale),
                  at(layout.sums, kPair / kGroup, g));
        }
    }
}

template <class T>
void unpack(const std::byte* w, int64_t row_bytes, int64_t count, int64_t inner, std::byte* to) {
    for (int64_t first = 0; first < count; first += Int8Tile::kStep, to += step_bytes<T>(inner)) {
        for (int v = 0; v < kVectors; ++v) {
            // A last vector that is not there repeats the last feature; nobody reads it.
            const int64_t start = std::min(first + v * kLanes, count - 1);
            unpack_vector<T>(w + start * row_bytes, row_bytes,
                             std::min<int64_t>(kLanes, count - start), inner, v, to);
        }
    }
}

/// Sums of products of R rows with the features of kVectorsAtOnce vectors.
template <int R>
struct Sums {
    Bytes of[size_t{R}][kVectorsAtOnce];
};

/// Where the numbers of a step's features and of the rows stand, group by group.
struct Numbers {
    const std::byte* weights;
    const std::byte* rows;
    int64_t stride;  // of rows
};

/// Adds products of the next group of 16 numbers.
template <class T, int R>
PALIMPSEST_INLINE void add_group(Numbers& at, Sums<R>& products) {
#pragma GCC unroll 4
    for (int64_t k = 0; k < kGroup / 4; ++k) {
        Bytes w[kVectorsAtOnce];
        for (int v = 0; v < kVectorsAtOnce; ++v) w[v] = load(at.weights + v * kLine);
        for (int r = 0; r < R; ++r) {
            const Bytes x = all_fours(at.rows + r * at.stride);
            for (int v = 0; v < kVectorsAtOnce; ++v) {
                products.of[r][v] = add_products<T::kReach>(products.of[r][v], x, w[v]);
            }
        }
        at.weights += kVectors * kLine;
        at.rows += 4;
    }
}

/// Products of the next kParts groups, added up.
template <class T, int R, int kParts>
PALIMPSEST_INLINE Sums<R> next_sums(Numbers& at) {
    Sums<R> products;
    for (auto& row : products.of) {
        for (Bytes& p : row) p = no_bytes();
    }
    Sums<R> whole = products;
#pragma GCC unroll 2
    for (int part = 0; part < kParts; ++part) {
        add_group<T, R>(at, products);
        if (kCarries<T::kReach> && part + 1 < kParts) continue;
        for (int r = 0; r < R; ++r) {
            for (int v = 0; v < kVectorsAtOnce; ++v) {
                const Bytes done = finished<T::kReach>(products.of[r][v]);
                whole.of[r][v] =
                    kCarries<T::kReach> || part == 0 ? done : plus(whole.of[r][v], done);
                products.of[r][v] = no_bytes();
            }
        }
    }
    return whole;
}

/// kVectorsAtOnce vectors of a step, from vector `vector` on, for R rows, `stride` bytes apart.
/// kShared: the groups of a row that meet one of the weights have one scale and one zero.
template <class T, int R, bool kShared>
PALIMPSEST_INLINE void multiply_rows(const std::byte* step, int vector, const std::byte* rows,
                                     int64_t stride, int64_t inner, const F32Rows& out) {
    constexpr int kV = kVectorsAtOnce;
    constexpr int kParts = T::kGroupSize / kGroup;
    constexpr int kScales = kShared ? 1 : kParts;  // of a row, for a group of the weights
    const StepLayout layout = StepLayout::of<T>(inner);
    const RowLayout row(inner);
    const auto part = [step, &layout, vector](int64_t at, int64_t group, int v) {
        return load(reinterpret_cast<const float*>(step + at) +
                    (group * kVectors + vector + v) * kLanes);
    };
    const auto number = [rows, stride](int64_t at, int r, int64_t i) {
        return all(reinterpret_cast<const float*>(rows + at + r * stride)[i]);
    };
    Floats sums[size_t{R}][kV];
    for (int r = 0; r < R; ++r) {
        for (int v = 0; v < kV; ++v) sums[r][v] = no_floats();
    }
    const int64_t groups = whole_pairs(inner) / T::kGroupSize;
    Numbers at = {.weights = step + vector * kLine, .rows = rows, .stride = stride};
    for (int64_t g = 0; g < groups; ++g) {
        Floats scaled[size_t{R}][kV];
#pragma GCC unroll 2
        for (int p = 0; p < kScales; ++p) {
            const Sums<R> products = next_sums<T, R, kParts / kScales>(at);
            const int64_t of_row = g * kParts + p;
            Floats of_numbers[kV];
            for (int v = 0; v < kV; ++v) {
                of_numbers[v] = part(layout.sums, of_row, v);
                if constexpr (kShared) {
                    of_numbers[v] = plus(of_numbers[v], part(layout.sums, of_row + 1, v));
                }
            }
            for (int r = 0; r < R; ++r) {
                const Floats scale = number(row.scales, r, of_row);
                const Floats offset = number(row.offsets, r, of_row);
                for (int v = 0; v < kV; ++v) {
                    const Floats product = to_floats(products.of[r][v]);
                    scaled[r][v] =
                        p == 0 ? times(product, scale) : times_plus(product, scale, scaled[r][v]);
                    sums[r][v] = times_plus(of_numbers[v], offset, sums[r][v]);
                }
            }
        }
        for (int v = 0; v < kV; ++v) {
            const Floats scale = part(layout.scales, g, v);
            for (int r = 0; r < R; ++r) {
                sums[r][v] = times_plus(scaled[r][v], scale, sums[r][v]);
                if constexpr (T::kHasOffset) {
                    static_assert(kParts == 2);
                    sums[r][v] =
                        times_plus(part(layout.offsets, g, v), number(row.sums, r, g), sums[r][v]);
                }
            }
        }
    }
    for (int r = 0; r < R; ++r) {
        for (int v = 0; v < kV; ++v) {
            store(sums[r][v], out.data + r * out.stride + (vector + v) * kLanes);
        }
    }
}

template <class T, int R, bool kShared>
void multiply_vectors(const std::byte* step, const std::byte* rows, int64_t inner,
                      const F32Rows& out) {
    for (int v = 0; v < kVectors; v += kVectorsAtOnce) {
        multiply_rows<T, R, kShared>(step, v, rows, int8_row_bytes(inner), inner, out);
    }
}

/// Up to R rows.
template <class T, int R, bool kShared>
void multiply_rest(const std::byte* step, const Int8Rows& rows, const F32Rows& out) {
    if constexpr (R > 0) {
        if (rows.n == R) {
            multiply_vectors<T, R, kShared>(step, rows.data, rows.inner, out);
        } else {
            multiply_rest<T, R - 1, kShared>(step, rows, out);
        }
    }
}

template <class T, bool kShared>
void multiply_step(const std::byte* step, const Int8Rows& rows, const F32Rows& out) {
    const int64_t stride = int8_row_bytes(rows.inner);
    int64_t r = 0;
    const auto at = [&](int64_t i) {
        return F32Rows{.data = out.data + i * out.stride, .stride = out.stride};
    };
    for (; r + kRowsAtOnce <= rows.n; r += kRowsAtOnce) {
        multiply_vectors<T, kRowsAtOnce, kShared>(step, rows.data + r * stride, rows.inner, at(r));
    }
    const Int8Rows rest = {.data = rows.data + r * stride, .n = rows.n - r, .inner = rows.inner};
    multiply_rest<T, kRowsAtOnce - 1, kShared>(step, rest, at(r));
}

// ---- by type ------------------------------------------------------------------------------------

template <class T>
constexpr Int8TypeKernels kernels(ggml_type type) {
    return {.type = type,
            .few = multiply_few<T>,
            .step_bytes = step_bytes<T>,
            .unpack = unpack<T>,
            .multiply_16 = multiply_step<T, false>,
            .multiply_32 = multiply_step<T, (T::kGroupSize > kGroup)>};
}

constexpr std::array<Int8TypeKernels, 8> kTypes = {
    {kernels<Q4_0>(GGML_TYPE_Q4_0), kernels<Q4_1>(GGML_TYPE_Q4_1), kernels<Q5_0>(GGML_TYPE_Q5_0),
     kernels<Q5_1>(GGML_TYPE_Q5_1), kernels<Q8_0>(GGML_TYPE_Q8_0), kernels<Q4_K>(GGML_TYPE_Q4_K),
     kernels<Q5_K>(GGML_TYPE_Q5_K), kernels<Q6_K>(GGML_TYPE_Q6_K)}};
