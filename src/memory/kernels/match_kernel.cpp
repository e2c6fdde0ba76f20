// The nearest of many keys, for looking up attention states and for k-means: products of a few
// queries with a tile of keys, and their maximum, without a matrix of scores.

#include "memory/kernels/match_kernel.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "memory/kernels/simd_targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "memory/kernels/match_kernel.cpp"
#include <hwy/foreach_target.h>
// Must follow foreach_target.
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace palimpsest::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr hn::CappedTag<float, kMatchTile> kMatchF32;
using MatchVector = hn::Vec<decltype(kMatchF32)>;
constexpr size_t kMatchLanes = hn::MaxLanes(kMatchF32);
constexpr size_t kMatchVectors = size_t{kMatchTile} / kMatchLanes;
/// Rows whose sums fit into the registers beside a tile's vectors.
constexpr int64_t kMatchRows = kMatchVectors <= 2 ? 8 : (kMatchVectors <= 4 ? 3 : 1);

HWY_INLINE MatchVector load_keys(const float* at) { return hn::LoadU(kMatchF32, at); }

HWY_INLINE MatchVector load_keys(const hwy::float16_t* at) {
    const hn::Rebind<hwy::float16_t, decltype(kMatchF32)> narrow;
    return hn::PromoteTo(kMatchF32, hn::LoadU(narrow, at));
}

HWY_INLINE MatchVector load_keys(const int8_t* at) {
    const hn::Rebind<int8_t, decltype(kMatchF32)> narrow;
    const hn::Rebind<int32_t, decltype(kMatchF32)> whole;
    return hn::ConvertTo(kMatchF32, hn::PromoteTo(whole, hn::LoadU(narrow, at)));
}

/// Takes the best of every row's scores.
struct TakeBest {
    const MatchKeys& keys;
    Match* best;

    HWY_INLINE void take(int64_t row, int64_t tile, const MatchVector* scores) const {
        MatchVector most = hn::Set(kMatchF32, -HUGE_VALF);
        for (size_t v = 0; v < kMatchVectors; ++v) most = hn::Max(most, scores[v]);
        // Most tiles have nothing better: one comparison says so.
        if (!(hn::GetLane(hn::MaxOfLanes(kMatchF32, most)) > best[row].score)) return;
        alignas(64) float all[kMatchTile];
        for (size_t v = 0; v < kMatchVectors; ++v) {
            hn::Store(scores[v], kMatchF32, all + v * kMatchLanes);
        }
        const int64_t first = tile * kMatchTile;
        const int64_t n = std::min(kMatchTile, keys.n - first);
        for (int64_t t = 0; t < n; ++t) {
            if (all[t] > best[row].score) best[row] = {.index = first + t, .score = all[t]};
        }
    }
};

/// Takes all scores of every row.
struct TakeAll {
    float* scores;
    int64_t row_length;

    HWY_INLINE void take(int64_t row, int64_t tile, const MatchVector* from) const {
        float* to = scores + row * row_length + tile * kMatchTile;
        for (size_t v = 0; v < kMatchVectors; ++v) {
            hn::StoreU(from[v], kMatchF32, to + v * kMatchLanes);
        }
    }
};

/// Rows [first_row, first_row + kRows) against one tile.
template <typename T, int kRows, typename Taker>
HWY_INLINE void match_tile(const MatchKeys& keys, const float* queries, int64_t stride,
                           int64_t tile, int64_t first_row, const Taker& taker) {
    const auto* columns = reinterpret_cast<const T*>(keys.tiles) + tile * keys.d * kMatchTile;
    queries += first_row * stride;
    MatchVector sum[size_t{kRows}][kMatchVectors];
    for (int r = 0; r < kRows; ++r) {
        for (size_t v = 0; v < kMatchVectors; ++v) sum[r][v] = hn::Zero(kMatchF32);
    }
    for (int64_t c = 0; c < keys.d; ++c) {
        MatchVector key[kMatchVectors];
        for (size_t v = 0; v < kMatchVectors; ++v) {
            key[v] = load_keys(columns + c * kMatchTile + v * kMatchLanes);
        }
        for (int r = 0; r < kRows; ++r) {
            const MatchVector q = hn::Set(kMatchF32, queries[r * stride + c]);
            for (size_t v = 0; v < kMatchVectors; ++v) {
                sum[r][v] = hn::MulAdd(q, key[v], sum[r][v]);
            }
        }
    }
    alignas(64) float scale[kMatchTile];
    alignas(64) float bias[kMatchTile];
    const int64_t first = tile * kMatchTile;
    const int64_t n = std::min(kMatchTile, keys.n - first);
    for (int64_t t = 0; t < kMatchTile; ++t) {
        scale[t] = keys.scale != nullptr && t < n ? keys.scale[first + t] : 1.0F;
        bias[t] = keys.bias != nullptr && t < n ? keys.bias[first + t] : 0.0F;
    }
    for (int r = 0; r < kRows; ++r) {
        for (size_t v = 0; v < kMatchVectors; ++v) {
            sum[r][v] = hn::MulAdd(sum[r][v], hn::Load(kMatchF32, scale + v * kMatchLanes),
                                   hn::Load(kMatchF32, bias + v * kMatchLanes));
        }
        taker.take(first_row + r, tile, sum[r]);
    }
}

/// n queries, `stride` values apart.
struct MatchQueries {
    const float* at;
    int64_t stride, n;
};

/// Tiles [begin, end).
struct MatchTiles {
    int64_t begin, end;
};

template <typename T, int kRows, typename Taker>
HWY_INLINE void match_tiles(const MatchKeys& keys, const MatchQueries& queries, MatchTiles tiles,
                            int64_t first_row, const Taker& taker) {
    for (int64_t t = tiles.begin; t < tiles.end; ++t) {
        match_tile<T, kRows>(keys, queries.at, queries.stride, t, first_row, taker);
    }
}

template <typename T, typename Taker>
void match_rows(const MatchKeys& keys, const MatchQueries& queries, MatchTiles all,
                const Taker& taker) {
    // A block of tiles stays in the cache while all rows pass it.
    const int64_t tile_bytes = keys.d * kMatchTile * static_cast<int64_t>(sizeof(T));
    const int64_t block = std::max<int64_t>(1, int64_t{128} * 1024 / tile_bytes);
    for (int64_t first = all.begin; first < all.end; first += block) {
        const MatchTiles tiles = {first, std::min(all.end, first + block)};
        for (int64_t r = 0; r < queries.n;) {
            if (queries.n - r >= kMatchRows) {
                match_tiles<T, kMatchRows>(keys, queries, tiles, r, taker);
                r += kMatchRows;
            } else if (kMatchRows > 3 && queries.n - r >= 3) {
                match_tiles<T, 3>(keys, queries, tiles, r, taker);
                r += 3;
            } else {
                match_tiles<T, 1>(keys, queries, tiles, r, taker);
                r += 1;
            }
        }
    }
}

template <typename Taker>
void match(const MatchKeys& keys, const MatchQueries& queries, MatchTiles tiles,
           const Taker& taker) {
    if (keys.type == GGML_TYPE_F32) {
        match_rows<float>(keys, queries, tiles, taker);
    } else if (keys.type == GGML_TYPE_F16) {
        match_rows<hwy::float16_t>(keys, queries, tiles, taker);
    } else {
        match_rows<int8_t>(keys, queries, tiles, taker);
    }
}

void best_matches_impl(const MatchKeys& keys, const float* queries, int64_t stride, int64_t begin,
                       int64_t end, std::span<Match> best) {
    const TakeBest taker = {.keys = keys, .best = best.data()};
    match(keys, {queries, stride, static_cast<int64_t>(best.size())}, {begin, end}, taker);
}

void all_matches_impl(const MatchKeys& keys, const float* queries, int64_t stride,
                      std::span<float> scores) {
    const int64_t row_length = keys.n_tiles() * kMatchTile;
    const TakeAll taker = {.scores = scores.data(), .row_length = row_length};
    match(keys, {queries, stride, static_cast<int64_t>(scores.size()) / row_length},
          {0, keys.n_tiles()}, taker);
}

}  // namespace palimpsest::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace palimpsest {

HWY_EXPORT(best_matches_impl);

void best_matches(const MatchKeys& keys, const float* queries, int64_t stride, int64_t begin,
                  int64_t end, std::span<Match> best) {
    HWY_DYNAMIC_DISPATCH(best_matches_impl)(keys, queries, stride, begin, end, best);
}

HWY_EXPORT(all_matches_impl);

void all_matches(const MatchKeys& keys, const float* queries, int64_t stride,
                 std::span<float> scores) {
    HWY_DYNAMIC_DISPATCH(all_matches_impl)(keys, queries, stride, scores);
}

size_t match_bytes(ggml_type type, int64_t n, int64_t d) {
    const int64_t n_tiles = (n + kMatchTile - 1) / kMatchTile;
    return static_cast<size_t>(n_tiles * kMatchTile * d) * ggml_type_size(type);
}

namespace {

/// Calls `put(place in tiles, place in rows)` for every value.
template <class Put>
void for_places(int64_t n, int64_t d, const Put& put) {
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t c = 0; c < d; ++c) {
            put(static_cast<size_t>((i / kMatchTile * d + c) * kMatchTile + i % kMatchTile),
                static_cast<size_t>(i * d + c));
        }
    }
}

}  // namespace

void to_tiles(std::span<const float> rows, int64_t d, ggml_type type, std::span<std::byte> tiles) {
    const int64_t n = std::ssize(rows) / d;
    check(type == GGML_TYPE_F32 || type == GGML_TYPE_F16, "tiles of f32 or f16");
    check(tiles.size() == match_bytes(type, n, d), "tiles of the right size");
    std::ranges::fill(tiles, std::byte{0});
    for_places(n, d, [&](size_t to, size_t from) {
        if (type == GGML_TYPE_F32) {
            std::memcpy(tiles.data() + to * sizeof(float), &rows[from], sizeof(float));
        } else {
            const ggml_fp16_t half = ggml_fp32_to_fp16(rows[from]);
            std::memcpy(tiles.data() + to * sizeof half, &half, sizeof half);
        }
    });
}

void to_tiles_i8(std::span<const float> rows, int64_t d, std::span<std::byte> tiles,
                 std::span<float> scale) {
    const int64_t n = std::ssize(rows) / d;
    check(tiles.size() == match_bytes(GGML_TYPE_I8, n, d), "tiles of the right size");
    std::ranges::fill(tiles, std::byte{0});
    for (int64_t i = 0; i < n; ++i) {
        float most = 0;
        for (int64_t c = 0; c < d; ++c) {
            most = std::max(most, std::abs(rows[static_cast<size_t>(i * d + c)]));
        }
        scale[static_cast<size_t>(i)] = most > 0 ? most / 127.0F : 1.0F;
    }
    for_places(n, d, [&](size_t to, size_t from) {
        const float unit = scale[from / static_cast<size_t>(d)];
        tiles[to] = static_cast<std::byte>(static_cast<int8_t>(std::lround(rows[from] / unit)));
    });
}

}  // namespace palimpsest
#endif
