// Sums over the attention that queries pay to a head's entries, without the values.
//
// Products of tiles as in the attention kernel for many queries. What a query pays to an entry
// needs the sum over all entries first, so scoring is two passes over the keys: sum_logits(),
// add_mass().

#include "memory/kernels/scoring_kernel.h"

#include "memory/kernels/simd_targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "memory/kernels/scoring_kernel.cpp"
#include <hwy/foreach_target.h>
// Must follow foreach_target.
#include "memory/kernels/attention_simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace palimpsest::HWY_NAMESPACE {

/// Below this many queries vectors run over channels: a panel would be mostly empty.
constexpr int64_t kFewRows = 12;

/// logits[t][row] of a tile, entries that a row does not see at -inf.
HWY_INLINE void tile_logits(const Panel& p, const float* k, int64_t first, int64_t n, int64_t d,
                            float* logits) {
    const int64_t stride = panel_rows();
    int64_t t = 0;
    for (; t + kBroadcasts <= n; t += kBroadcasts) {
        logits_of<kBroadcasts>(k + t * d, p, d, logits + t * stride);
    }
    for (; t < n; ++t) logits_of<1>(k + t * d, p, d, logits + t * stride);
    if (first < p.last_begin || first + n > p.first_end) mask(p, first, n, logits);
}

/// Joins a tile's logits into every row's peak and weight.
HWY_INLINE void sum_tile(const Panel& p, int64_t n, const float* logits) {
    const size_t lanes = hn::Lanes(kF32);
    const size_t stride = kPanelVectors * lanes;
    for (size_t x = 0; x < kPanelVectors; ++x) {
        const float* column = logits + x * lanes;
        const V old_peak = hn::Load(kF32, p.peak + x * lanes);
        V peak = old_peak;
        for (int64_t t = 0; t < n; ++t) {
            peak = hn::Max(peak, hn::Load(kF32, column + static_cast<size_t>(t) * stride));
        }
        // A row that has seen nothing yet has no peak to subtract: -inf - -inf is not a number.
        const V base = hn::IfThenZeroElse(hn::Eq(peak, hn::Set(kF32, kNever)), peak);
        V weight = hn::Mul(hn::Load(kF32, p.weight + x * lanes),
                           exp2_nonpositive(hn::Sub(old_peak, base)));
        for (int64_t t = 0; t < n; ++t) {
            const V logit = hn::Load(kF32, column + static_cast<size_t>(t) * stride);
            weight = hn::Add(weight, exp2_nonpositive(hn::Sub(logit, base)));
        }
        hn::Store(peak, kF32, p.peak + x * lanes);
        hn::Store(weight, kF32, p.weight + x * lanes);
    }
}

/// mass[t] takes in exp2(logit - peak) of all rows; peaks hold the rows' lse, +inf for no row.
template <Reduce kReduce>
HWY_INLINE void add_tile(const Panel& p, int64_t n, const float* logits, float* mass) {
    const size_t lanes = hn::Lanes(kF32);
    const V l0 = hn::Load(kF32, p.peak);
    const V l1 = hn::Load(kF32, p.peak + lanes);
    const V l2 = hn::Load(kF32, p.peak + 2 * lanes);
    const V zero = hn::Zero(kF32);
    // Rounding may put a logit a little above the sum.
    const auto weight = [&](const float* logit, V lse) HWY_ATTR {
        return exp2_nonpositive(hn::Min(hn::Sub(hn::Load(kF32, logit), lse), zero));
    };
    for (int64_t t = 0; t < n; ++t, logits += kPanelVectors * lanes) {
        const V w0 = weight(logits, l0);
        const V w1 = weight(logits + lanes, l1);
        const V w2 = weight(logits + 2 * lanes, l2);
        if constexpr (kReduce == Reduce::kSum) {
            mass[t] += hn::GetLane(hn::SumOfLanes(kF32, hn::Add(hn::Add(w0, w1), w2)));
        } else {
            const V most = hn::Max(hn::Max(w0, w1), w2);
            mass[t] = std::max(mass[t], hn::GetLane(hn::MaxOfLanes(kF32, most)));
        }
    }
}

/// Calls `work(panel, tile of keys, its first slot, its length)` for all panels of rows and all
/// tiles of [begin, end) that they can see.
template <class Entries, class Work>
HWY_INLINE void for_tiles(const EntryRows& e, std::span<Panel> panels, int64_t begin, int64_t end,
                          float* k_tile, const Work& work) {
    const auto row_bytes = static_cast<int64_t>(e.row_bytes);
    const int64_t slots = tile_slots(e.d);
    for (int64_t first = begin; first < end; first += slots) {
        const int64_t n = std::min(slots, end - first);
        const float* k = load_tile<Entries>(e.k + first * row_bytes, row_bytes, n, e.d, k_tile);
        for (size_t i = 0; i < panels.size(); ++i) {
            const Panel& p = panels[i];
            if (first >= p.last_end || first + n <= p.first_begin) continue;
            work(i, k, first, n);
        }
    }
}

constexpr size_t kMaxPanels = static_cast<size_t>(kMaxRows) / (kPanelVectors * 4);

// Only the first `count` are ever read.
struct Panels {  // NOLINT(cppcoreguidelines-pro-type-member-init)
    Panel panel[kMaxPanels];
    size_t count = 0;
    int64_t begin = 0, end = 0;  // slots that any row sees
    [[nodiscard]] HWY_INLINE std::span<Panel> all() { return {panel, count}; }
};

inline Panels make_panels(std::span<const QueryRow> rows, int64_t d, float scale,
                          Scratch& scratch) {
    Panels p;
    const auto width = static_cast<size_t>(panel_rows());
    for (size_t at = 0; at < rows.size(); at += width) {
        p.panel[p.count++] =
            make_panel(rows.subspan(at, std::min(width, rows.size() - at)), d, scale, scratch);
    }
    p.begin = p.panel[0].first_begin;
    p.end = p.panel[0].last_end;
    for (size_t i = 1; i < p.count; ++i) {
        p.begin = std::min(p.begin, p.panel[i].first_begin);
        p.end = std::max(p.end, p.panel[i].last_end);
    }
    return p;
}

template <class Entries>
void sum_logits_of(const EntryRows& e, std::span<const QueryRow> rows, float scale, float* memory) {
    Scratch scratch{memory};
    Panels p = make_panels(rows, e.d, scale, scratch);
    float* logits = scratch.take(tile_slots(e.d) * panel_rows());
    float* k_tile = scratch.take(tile_slots(e.d) * e.d);
    for_tiles<Entries>(e, p.all(), p.begin, p.end, k_tile,
                       [&](size_t i, const float* k, int64_t first, int64_t n) HWY_ATTR {
                           tile_logits(p.panel[i], k, first, n, e.d, logits);
                           sum_tile(p.panel[i], n, logits);
                       });
    const int64_t width = panel_rows();
    for (int64_t r = 0; r < std::ssize(rows); ++r) {
        const Panel& of = p.panel[r / width];
        const float weight = of.weight[r % width];
        *rows[static_cast<size_t>(r)].lse =
            weight > 0 ? of.peak[r % width] * kLn2 + std::log(weight) : kNever;
    }
}

template <class Entries>
void add_mass_of_many(const EntryRows& e, std::span<const QueryRow> rows, SlotRange slots,
                      float scale, Mass mass, float* memory) {
    const int64_t first_slot = slots.begin;
    const int64_t n_slots = slots.end - first_slot;
    Scratch scratch{memory};
    Panels p = make_panels(rows, e.d, scale, scratch);
    const int64_t width = panel_rows();
    for (int64_t r = 0; r < static_cast<int64_t>(p.count) * width; ++r) {
        const bool is_row = r < std::ssize(rows) && *rows[static_cast<size_t>(r)].lse > kNever;
        p.panel[r / width].peak[r % width] =
            is_row ? *rows[static_cast<size_t>(r)].lse * kLog2E : -kNever;
    }
    float* logits = scratch.take(tile_slots(e.d) * width);
    float* k_tile = scratch.take(tile_slots(e.d) * e.d);
    const int64_t begin = std::max(first_slot, p.begin);
    const int64_t end = std::min(first_slot + n_slots, p.end);
    for_tiles<Entries>(e, p.all(), begin, end, k_tile,
                       [&](size_t i, const float* k, int64_t first, int64_t n) HWY_ATTR {
                           tile_logits(p.panel[i], k, first, n, e.d, logits);
                           float* to = mass.of + (first - first_slot);
                           if (mass.reduce == Reduce::kSum) {
                               add_tile<Reduce::kSum>(p.panel[i], n, logits, to);
                           } else {
                               add_tile<Reduce::kMax>(p.panel[i], n, logits, to);
                           }
                       });
}

/// The same for rows too few for a panel, tile after tile.
template <class Entries>
void add_mass_of_few(const EntryRows& e, std::span<const QueryRow> rows, SlotRange slots,
                     float scale, Mass mass, float* memory) {
    const int64_t first_slot = slots.begin;
    const int64_t n_slots = slots.end - first_slot;
    constexpr int64_t kTile = 256;
    const int64_t d = e.d;
    const auto lanes = static_cast<int64_t>(hn::Lanes(kF32));
    const auto row_bytes = static_cast<int64_t>(e.row_bytes);
    const int64_t n_rows = std::ssize(rows);
    Scratch scratch{memory};
    float* q = scratch.take(n_rows * d);
    float* logits = scratch.take(n_rows * kTile);
    for (int64_t r = 0; r < n_rows; ++r) {
        const float* from = rows[static_cast<size_t>(r)].q;
        for (int64_t c = 0; c < d; ++c) q[r * d + c] = from[c] * scale * kLog2E;
    }
    for (int64_t first = first_slot; first < first_slot + n_slots; first += kTile) {
        const int64_t n = std::min(kTile, first_slot + n_slots - first);
        dot_all<Entries>(q, n_rows,
                         {.at = e.k + first * row_bytes, .row_bytes = row_bytes, .n = n, .d = d},
                         logits, kTile);
        for (int64_t r = 0; r < n_rows; ++r) {
            const QueryRow& row = rows[static_cast<size_t>(r)];
            const int64_t begin = std::max(row.begin, first) - first;
            const int64_t end = std::min(row.end, first + n) - first;
            if (begin >= end || *row.lse == kNever) continue;
            float* of = logits + r * kTile;
            const V lse = hn::Set(kF32, *row.lse * kLog2E);
            for (int64_t t = 0; t < kTile; t += lanes) {
                const V x = hn::Min(hn::Sub(hn::LoadU(kF32, of + t), lse), hn::Zero(kF32));
                hn::StoreU(exp2_nonpositive(x), kF32, of + t);
            }
            float* to = mass.of + (first - first_slot);
            for (int64_t t = begin; t < end; ++t) {
                to[t] = mass.reduce == Reduce::kSum ? to[t] + of[t] : std::max(to[t], of[t]);
            }
        }
    }
}

template <class Entries>
void multiply_keys_of(const EntryRows& e, SlotRange slots, std::span<const float> rows, float* out,
                      float* memory) {
    const int64_t first_slot = slots.begin;
    const int64_t n_slots = slots.end - first_slot;
    const int64_t n_rows = std::ssize(rows) / e.d;
    const int64_t width = panel_rows();
    Scratch scratch{memory};
    float* q = scratch.take(e.d * width);
    float* products = scratch.take(tile_slots(e.d) * width);
    float* k_tile = scratch.take(tile_slots(e.d) * e.d);
    for (int64_t r0 = 0; r0 < n_rows; r0 += width) {
        const int64_t count = std::min(width, n_rows - r0);
        for (int64_t c = 0; c < e.d; ++c) {
            for (int64_t r = 0; r < width; ++r) {
                q[c * width + r] = r < count ? rows[static_cast<size_t>((r0 + r) * e.d + c)] : 0.0F;
            }
        }
        Panel p = {};
        p.q = q;
        p.last_begin = first_slot;
        p.first_begin = first_slot;
        p.first_end = first_slot + n_slots;
        p.last_end = p.first_end;
        for_tiles<Entries>(e, std::span(&p, 1), first_slot, first_slot + n_slots, k_tile,
                           [&](size_t, const float* k, int64_t first, int64_t n) HWY_ATTR {
                               tile_logits(p, k, first, n, e.d, products);
                               float* to = out + (first - first_slot) * n_rows + r0;
                               for (int64_t t = 0; t < n; ++t) {
                                   std::copy_n(products + t * width, count, to + t * n_rows);
                               }
                           });
    }
}

/// Not by load_tile(): the tile belongs to the caller and has no room past its end.
template <class Entries>
void read_keys_of(const EntryRows& e, int64_t first, int64_t n, float* out) {
    const auto lanes = static_cast<int64_t>(hn::Lanes(kF32));
    for (int64_t t = first; t < first + n; ++t, out += e.d) {
        const std::byte* row = e.k + static_cast<size_t>(t) * e.row_bytes;
        int64_t c = 0;
        for (; c + lanes <= e.d; c += lanes) hn::StoreU(Entries::load(row, c), kF32, out + c);
        if (c == e.d) continue;
        HWY_ALIGN float rest[hn::MaxLanes(kF32)];
        hn::Store(Entries::load(row, c), kF32, rest);
        std::copy_n(rest, e.d - c, out + c);
    }
}

void read_keys_impl(const EntryRows& e, int64_t first, int64_t n, float* out) {
    with_entries(e.type,
                 [&](auto entries) HWY_ATTR { read_keys_of<decltype(entries)>(e, first, n, out); });
}

void sum_logits_impl(const EntryRows& e, std::span<const QueryRow> rows, float scale,
                     float* memory) {
    with_entries(e.type, [&](auto entries) HWY_ATTR {
        sum_logits_of<decltype(entries)>(e, rows, scale, memory);
    });
}

void add_mass_impl(const EntryRows& e, std::span<const QueryRow> rows, SlotRange slots, float scale,
                   Mass mass, float* memory) {
    const bool few =
        std::ssize(rows) <= kFewRows && e.d % static_cast<int64_t>(hn::Lanes(kF32)) == 0;
    with_entries(e.type, [&](auto entries) HWY_ATTR {
        using Entries = decltype(entries);
        if (few) {
            add_mass_of_few<Entries>(e, rows, slots, scale, mass, memory);
        } else {
            add_mass_of_many<Entries>(e, rows, slots, scale, mass, memory);
        }
    });
}

void multiply_keys_impl(const EntryRows& e, SlotRange slots, std::span<const float> rows,
                        float* out, float* memory) {
    with_entries(e.type, [&](auto entries) HWY_ATTR {
        multiply_keys_of<decltype(entries)>(e, slots, rows, out, memory);
    });
}

}  // namespace palimpsest::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace palimpsest {

HWY_EXPORT(sum_logits_impl);
HWY_EXPORT(add_mass_impl);
HWY_EXPORT(multiply_keys_impl);
HWY_EXPORT(read_keys_impl);

void sum_logits(const EntryRows& entries, std::span<const QueryRow> rows, float scale,
                float* scratch) {
    if (rows.empty()) return;
    HWY_DYNAMIC_DISPATCH(sum_logits_impl)(entries, rows, scale, scratch);
}

void add_mass(const EntryRows& entries, std::span<const QueryRow> rows, SlotRange slots,
              float scale, Mass mass, float* scratch) {
    if (rows.empty()) return;
    HWY_DYNAMIC_DISPATCH(add_mass_impl)
    (entries, rows, slots, scale, mass, scratch);
}

void multiply_keys(const EntryRows& entries, SlotRange slots, std::span<const float> rows,
                   float* out, float* scratch) {
    HWY_DYNAMIC_DISPATCH(multiply_keys_impl)(entries, slots, rows, out, scratch);
}

void read_keys(const EntryRows& entries, int64_t first, int64_t n, float* out) {
    HWY_DYNAMIC_DISPATCH(read_keys_impl)(entries, first, n, out);
}

}  // namespace palimpsest
#endif
