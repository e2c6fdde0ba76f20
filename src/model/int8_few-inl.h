// Products of few rows, for int8_kernel-inl.h alone.

// Numbers are multiplied four pairs at a time, each lane of a vector having the numbers of one
// group of 16: lane 4 g + j those of group g of pair j. So a group is scaled once, not four times.
// Pairs that are left over are multiplied as they stand, a lane for each four numbers, of which a
// last pair may have too few. Rows are put in that order beforehand.

constexpr int kQuad = 4;  // pairs

/// Vectors of a row: of four pairs, and of one. Numbers, minus the zero of each lane, its scale,
/// and, for types with offsets, what the numbers of each 32 stand for, in one of their lanes.
constexpr int64_t kQuadRow = (kQuad + 3) * kLine;
constexpr int64_t kPairRow = (1 + 3) * kLine;

struct PairCounts {
    int64_t quads, rest;

    /// The rest: whole pairs and, if there is one, half of one.
    explicit PairCounts(int64_t inner)
        : quads(inner / (kQuad * kPair)), rest(whole_pairs(inner) / kPair - kQuad * quads) {}
};

int64_t few_bytes(int64_t n, int64_t inner) {
    const PairCounts counts(inner);
    return n * (counts.quads * kQuadRow + counts.rest * kPairRow);
}

PALIMPSEST_INLINE Bytes spread(const std::byte* four) {
    return quarters(_mm_loadu_si128(reinterpret_cast<const __m128i*>(four)));
}
PALIMPSEST_INLINE const float* as_floats(const std::byte* at) {
    return reinterpret_cast<const float*>(at);
}
PALIMPSEST_INLINE float* as_floats(std::byte* at) { return reinterpret_cast<float*>(at); }

/// Pair i of a rounded row.
struct RowPair {
    Bytes numbers;
    Floats less, scale;
    float sums[2];

    PALIMPSEST_INLINE RowPair(const Row& x, int64_t i)
        : numbers(load(x.numbers + i * kPair)),
          less(times(to_floats(first_bytes(spread(x.zeros + 16 * i))), all(-1.0F))),
          scale(as_floats(spread(x.scales + 16 * i))),
          sums{as_floats(x.sums + 8 * i)[0], as_floats(x.sums + 8 * i)[1]} {}
};

/// The sums' lanes: 4 g for the first group of each 32.
PALIMPSEST_INLINE void store_rest(Floats less, Floats scale, const std::array<float, 16>& sums,
                                  std::byte* to) {
    store(less, as_floats(to));
    store(scale, as_floats(to + kLine));
    std::memcpy(to + 2 * kLine, sums.data(), sizeof sums);
}

void order_quad(const Row& x, int64_t i, std::byte* to) {
    const RowPair pairs[kQuad] = {{x, i}, {x, i + 1}, {x, i + 2}, {x, i + 3}};
    Bytes numbers[kQuad];
    std::array<float, 16> sums{};
    for (size_t j = 0; j < kQuad; ++j) {
        numbers[j] = pairs[j].numbers;
        sums[j] = pairs[j].sums[0];
        sums[8 + j] = pairs[j].sums[1];
    }
    transpose_fours(numbers);
    for (int j = 0; j < kQuad; ++j) store(numbers[j], to + j * kLine);
    store_rest(one_of_each(pairs[0].less, pairs[1].less, pairs[2].less, pairs[3].less),
               one_of_each(pairs[0].scale, pairs[1].scale, pairs[2].scale, pairs[3].scale), sums,
               to + kQuad * kLine);
}

void order_pair(const Row& x, int64_t i, std::byte* to) {
    const RowPair pair(x, i);
    std::array<float, 16> sums{};
    sums[0] = pair.sums[0];
    sums[8] = pair.sums[1];
    store(pair.numbers, to);
    store_rest(pair.less, pair.scale, sums, to + kLine);
}

/// Those that are multiplied at once stand side by side.
void order_few(const Int8Rows& rows, std::byte* to) {
    const RowLayout layout(rows.inner);
    const PairCounts counts(rows.inner);
    for (int64_t first = 0; first < rows.n; first += kFewAtOnce) {
        const int64_t n = std::min(kFewAtOnce, rows.n - first);
        const auto row = [&](int64_t r) {
            return Row(rows.data + (first + r) * int8_row_bytes(rows.inner), layout);
        };
        for (int64_t q = 0; q < counts.quads; ++q) {
            for (int64_t r = 0; r < n; ++r, to += kQuadRow) order_quad(row(r), kQuad * q, to);
        }
        for (int64_t i = 0; i < counts.rest; ++i) {
            for (int64_t r = 0; r < n; ++r, to += kPairRow) {
                order_pair(row(r), kQuad * counts.quads + i, to);
            }
        }
    }
}

/// Weights of one pair, kN = 1, or of four, 4, in the order of their rows.
template <int kN>
struct FewWeights {
    Bytes numbers[size_t{kN}];
    Floats scale, offset;
};

template <class T>
PALIMPSEST_INLINE FewWeights<kQuad> grouped(const Pair* p) {
    FewWeights<kQuad> w;
    for (int j = 0; j < kQuad; ++j) w.numbers[j] = p[j].numbers;
    transpose_fours(w.numbers);
    w.scale = one_of_each(p[0].scale, p[1].scale, p[2].scale, p[3].scale);
    w.offset = T::kHasOffset ? one_of_each(p[0].offset, p[1].offset, p[2].offset, p[3].offset)
                             : no_floats();
    return w;
}

PALIMPSEST_INLINE FewWeights<1> alone(const Pair& p) {
    FewWeights<1> w;
    w.numbers[0] = p.numbers;
    w.scale = p.scale;
    w.offset = p.offset;
    return w;
}

/// Adds products with R rows, whose part for these weights `x` is.
template <class T, int R, int kN>
PALIMPSEST_INLINE void add_products_of(const FewWeights<kN>& w, const std::byte* x, Floats* sums) {
    constexpr int64_t kRow = (kN + 3) * kLine;
    Bytes ones = no_bytes();
    for (int k = 0; k < kN; ++k) {
        ones = add_products<T::kReach>(ones, all_bytes(1), w.numbers[k]);
    }
    const Floats of_ones = to_floats(finished<T::kReach>(ones));
    for (int r = 0; r < R; ++r, x += kRow) {
        Bytes dot = no_bytes();
        for (int k = 0; k < kN; ++k) {
            dot = add_products<T::kReach>(dot, load(x + k * kLine), w.numbers[k]);
        }
        const auto part = [x](int64_t i) { return load(as_floats(x + (kN + i) * kLine)); };
        // Whole numbers that f32 holds: sum of (number - zero) * weight.
        const Floats exact = times_plus(of_ones, part(0), to_floats(finished<T::kReach>(dot)));
        sums[r] = times_plus(exact, times(w.scale, part(1)), sums[r]);
        if constexpr (T::kHasOffset) sums[r] = times_plus(w.offset, part(2), sums[r]);
    }
}

/// Of each row, all lanes added up.
template <int R>
PALIMPSEST_INLINE void write_sums(const Floats* sums, const F32Rows& out) {
    if constexpr (R == 1) {
        out.data[0] = sum_of(sums[0]);
        return;
    }
    constexpr int kFour = 4;
    for (int first = 0; first < R; first += kFour) {
        Floats four[kFour];
        for (int i = 0; i < kFour; ++i) {
            four[i] = first + i < R ? sums[first + i] : no_floats();
        }
        alignas(16) std::array<float, kFour> results{};
        _mm_store_ps(results.data(), across(Sum(), four));
        for (int i = 0; i < kFour && first + i < R; ++i) {
            out.data[(first + i) * out.stride] = results[static_cast<size_t>(i)];
        }
    }
}

constexpr int64_t kAhead = 4096;  // bytes that are fetched before they are read

template <class T, int R>
void few(const std::byte* w, int64_t row_bytes, int64_t count, const std::byte* rows, int64_t inner,
         const F32Rows& out) {
    const PairCounts counts(inner);
    for (int64_t f = 0; f < count; ++f, w += row_bytes) {
        for (int64_t b = 0; b < row_bytes; b += kLine) {
            _mm_prefetch(reinterpret_cast<const char*>(w) + kAhead + b, _MM_HINT_T0);
        }
        Floats sums[size_t{R}];
        for (Floats& s : sums) s = no_floats();
        const std::byte* x = rows;
        int64_t i = 0;
        for (; i < kQuad * counts.quads; i += kQuad, x += R * kQuadRow) {
            const Pair p[kQuad] = {pair_of<T>(w, i, nullptr), pair_of<T>(w, i + 1, nullptr),
                                   pair_of<T>(w, i + 2, nullptr), pair_of<T>(w, i + 3, nullptr)};
            add_products_of<T, R, kQuad>(grouped<T>(p), x, sums);
        }
        Spare<T> spare;
        const std::byte* last = counts.rest > 0 ? spare.of(w, inner) : nullptr;
        for (const int64_t end = i + counts.rest; i < end; ++i, x += R * kPairRow) {
            const Pair p = pair_of<T>(w, i, i + 1 < end ? nullptr : last);
            add_products_of<T, R, 1>(alone(p), x, sums);
        }
        write_sums<R>(sums, {.data = out.data + f, .stride = out.stride});
    }
}

template <class T, size_t... kRows>
constexpr auto few_by_rows(std::index_sequence<kRows...>) {
    return std::array{few<T, static_cast<int>(kRows) + 1>...};
}

template <class T>
void multiply_few(const std::byte* w, int64_t row_bytes, int64_t count, const Int8FewRows& rows,
                  const F32Rows& out) {
    constexpr auto kBy = few_by_rows<T>(std::make_index_sequence<size_t{kFewAtOnce}>());
    const std::byte* x = rows.data;
    for (int64_t first = 0; first < rows.n; first += kFewAtOnce) {
        const int64_t n = std::min(kFewAtOnce, rows.n - first);
        kBy[static_cast<size_t>(n - 1)](
            w, row_bytes, count, x, rows.inner,
            {.data = out.data + first * out.stride, .stride = out.stride});
        x += few_bytes(n, rows.inner);
    }
}
