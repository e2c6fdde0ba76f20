// Online-softmax attention over a part of one head's entries, for a few queries.
//
// A vector runs over the channels of a head: with one to a dozen queries, vectors over queries (the
// other kernel) would be mostly empty.

#include "memory/kernels/attention_kernel.h"
#include "memory/kernels/simd_targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "memory/kernels/attention_kernel_few.cpp"
#include <hwy/foreach_target.h>
// Must follow foreach_target.
#include "memory/kernels/attention_simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace palimpsest::HWY_NAMESPACE {

/// sums[r][c..] += sum over slots of weights[r * stride + t] * v[t][c..], for kRows queries and
/// kVectors vectors of channels from c on.
template <class Entries, int64_t kRows, int64_t kVectors>
HWY_INLINE void add_channels(const StoredRows& v, int64_t c, const float* weights, int64_t stride,
                             float* sums) {
    const auto lanes = static_cast<int64_t>(hn::Lanes(kF32));
    V sum[size_t{kRows}][size_t{kVectors}];
    for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t x = 0; x < kVectors; ++x) sum[r][x] = hn::Zero(kF32);
    }
    for (int64_t t = 0; t < v.n; ++t) {
        prefetch_row(v.at, v.row_bytes, t);
        V value[size_t{kVectors}];
        for (int64_t x = 0; x < kVectors; ++x) value[x] = Entries::load(v.row(t), c + x * lanes);
        for (int64_t r = 0; r < kRows; ++r) {
            const V w = hn::Set(kF32, weights[r * stride + t]);
            for (int64_t x = 0; x < kVectors; ++x) sum[r][x] = hn::MulAdd(w, value[x], sum[r][x]);
        }
    }
    for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t x = 0; x < kVectors; ++x) {
            hn::StoreU(sum[r][x], kF32, sums + r * v.d + c + x * lanes);
        }
    }
}

template <class Entries, int64_t kRows>
HWY_INLINE void add_rows(const StoredRows& v, const float* weights, int64_t stride, float* sums) {
    const auto lanes = static_cast<int64_t>(hn::Lanes(kF32));
    int64_t c = 0;
    for (; c + 4 * lanes <= v.d; c += 4 * lanes) {
        add_channels<Entries, kRows, 4>(v, c, weights, stride, sums);
    }
    for (; c < v.d; c += lanes) add_channels<Entries, kRows, 1>(v, c, weights, stride, sums);
}

/// Turns n logits into weights, n a multiple of the vector length (padded with -inf).
HWY_INLINE void weigh_row(float* logits, int64_t n, PartialRow& part) {
    const auto lanes = static_cast<int64_t>(hn::Lanes(kF32));
    V peak = hn::Set(kF32, kNever);
    for (int64_t t = 0; t < n; t += lanes) peak = hn::Max(peak, hn::LoadU(kF32, logits + t));
    part.peak = hn::GetLane(hn::MaxOfLanes(kF32, peak));
    const V base = hn::Set(kF32, part.peak);
    V weight = hn::Zero(kF32);
    for (int64_t t = 0; t < n; t += lanes) {
        const V w = exp2_nonpositive(hn::Sub(hn::LoadU(kF32, logits + t), base));
        weight = hn::Add(weight, w);
        hn::StoreU(w, kF32, logits + t);
    }
    part.weight = hn::GetLane(hn::SumOfLanes(kF32, weight));
}

/// Scaled queries, logits that become weights, and sums of a part: [n_rows][...] each.
struct PartMemory {
    int64_t n_rows = 0;
    int64_t stride = 0;  // of logits
    float* q = nullptr;
    float* logits = nullptr;
    float* sums = nullptr;
};

template <class Entries>
HWY_INLINE void add_all(const PartMemory& m, const StoredRows& v) {
    int64_t r = 0;
    for (; r + 3 <= m.n_rows; r += 3) {
        add_rows<Entries, 3>(v, m.logits + r * m.stride, m.stride, m.sums + r * v.d);
    }
    if (m.n_rows - r == 2) {
        add_rows<Entries, 2>(v, m.logits + r * m.stride, m.stride, m.sums + r * v.d);
    }
    if (m.n_rows - r == 1) {
        add_rows<Entries, 1>(v, m.logits + r * m.stride, m.stride, m.sums + r * v.d);
    }
}

template <class Entries>
void attend_part_of(const EntryRows& e, std::span<const QueryRow> rows, SlotRange slots,
                    float scale, std::span<PartialRow> parts, float* memory) {
    const int64_t d = e.d;
    const int64_t begin = slots.begin;
    const int64_t n = slots.end - begin;
    const auto row_bytes = static_cast<int64_t>(e.row_bytes);
    Scratch scratch{memory};
    PartMemory m = {.n_rows = std::ssize(rows), .stride = (n + 15) / 16 * 16};
    m.q = scratch.take(m.n_rows * d);
    m.sums = scratch.take(m.n_rows * d);
    m.logits = scratch.take(m.n_rows * m.stride);
    for (int64_t r = 0; r < m.n_rows; ++r) {
        const float* from = rows[static_cast<size_t>(r)].q;
        for (int64_t c = 0; c < d; ++c) m.q[r * d + c] = from[c] * scale * kLog2E;
        std::fill_n(m.logits + r * m.stride + n, m.stride - n, kNever);
    }
    dot_all<Entries>(m.q, m.n_rows,
                     {.at = e.k + begin * row_bytes, .row_bytes = row_bytes, .n = n, .d = d},
                     m.logits, m.stride);
    for (int64_t r = 0; r < m.n_rows; ++r) {
        weigh_row(m.logits + r * m.stride, m.stride, parts[static_cast<size_t>(r)]);
    }
    add_all<Entries>(m, {.at = e.v + begin * row_bytes, .row_bytes = row_bytes, .n = n, .d = d});
    for (int64_t r = 0; r < m.n_rows; ++r) {
        std::copy_n(m.sums + r * d, d, parts[static_cast<size_t>(r)].sum);
    }
}

bool attend_part_impl(const EntryRows& e, std::span<const QueryRow> rows, SlotRange slots,
                      float scale, std::span<PartialRow> parts, float* memory) {
    if (e.d % static_cast<int64_t>(hn::Lanes(kF32)) != 0) return false;
    with_entries(e.type, [&](auto entries) HWY_ATTR {
        attend_part_of<decltype(entries)>(e, rows, slots, scale, parts, memory);
    });
    return true;
}

}  // namespace palimpsest::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace palimpsest {

HWY_EXPORT(attend_part_impl);

bool attend_part(const EntryRows& entries, std::span<const QueryRow> rows, SlotRange slots,
                 float scale, std::span<PartialRow> parts, float* scratch) {
    return HWY_DYNAMIC_DISPATCH(attend_part_impl)(entries, rows, slots, scale, parts, scratch);
}

}  // namespace palimpsest
#endif
