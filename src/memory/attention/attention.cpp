#include "memory/attention/attention.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <numbers>

#include "core/error.h"
#include "memory/kernels/scoring_kernel.h"

namespace palimpsest {

namespace {

constexpr int64_t kDecodingRows = 12;  // below this, vectors over queries would be mostly empty
constexpr int64_t kLeastPart = 256;
constexpr int64_t kAlignFloats = 16;

int64_t n_parts(SlotRange seen) {
    const int64_t n = seen.end - seen.begin;
    return std::max<int64_t>(1, (n + part_slots(n) - 1) / part_slots(n));
}

/// No query that sees at most n slots has more parts. n_parts() itself falls where parts grow.
int64_t most_parts(int64_t n) {
    constexpr int64_t kOfLongContexts = 33;  // part_slots() is at least n / 32, rounded down
    const int64_t shortest = (n + kLeastPart - 1) / kLeastPart;
    const int64_t longest = (n + kMaxPart - 1) / kMaxPart;
    return std::clamp<int64_t>(shortest, 1, std::max(kOfLongContexts, longest));
}

/// dst->src: k, v [d_head, n_head_kv, n].
class StoreOp final : public CustomOp {
 public:
    StoreOp(EntrySource& source, int64_t layer) : source_(source), layer_(layer) {}

    void run(ggml_tensor* dst, int thread, int n_threads) noexcept override {
        const ggml_tensor* k = dst->src[0];
        const ggml_tensor* v = dst->src[1];
        const int64_t n = k->ne[2];
        const int64_t begin = n * thread / n_threads;
        const int64_t end = n * (thread + 1) / n_threads;
        for (int64_t i = begin; i < end; ++i) {
            for (int64_t h = 0; h < k->ne[1]; ++h) {
                source_.store(layer_, h, i, head_row(k, h, i), head_row(v, h, i));
            }
        }
    }

 private:
    EntrySource& source_;
    int64_t layer_;
};

/// dst [d_head * n_head, n]; dst->src: q [d_head, n_head, n], and whatever must run before.
class AttendOp final : public CustomOp {
 public:
    AttendOp(const MemoryShape& shape, EntrySource& source, AttentionScratch& scratch,
             const AttentionInputs& in)
        : shape_(shape),
          source_(source),
          scratch_(scratch),
          layer_(in.layer),
          scale_(in.scale),
          rounds_(in.may_round && has_bf16_attention()),
          group_(shape.n_head / shape.n_head_kv),
          parts_done_(static_cast<size_t>(shape.n_head_kv * kDecodingRows)) {}

    void run(ggml_tensor* dst, int thread, int n_threads) noexcept override {
        if (is_decoding(shape_, dst->ne[1])) {
            run_parts(dst, thread, n_threads);
        } else {
            run_rows(dst, thread);
        }
        work_.leave(n_threads);
    }

 private:
    QueryRow query(const ggml_tensor* dst, int64_t head, int64_t i) const {
        return {.q = head_row(dst->src[0], head, i),
                .out = static_cast<float*>(dst->data) + (i * shape_.n_head + head) * shape_.d_head,
                .lse = scratch_.lse(head, i)};
    }

    /// One piece of work: up to kMaxRows queries of the heads that share a KV head.
    void run_rows(const ggml_tensor* dst, int thread) {
        const int64_t n = dst->ne[1];
        const int64_t blocks = (n * group_ + kMaxRows - 1) / kMaxRows;
        for (int64_t w = work_.take(); w < blocks * shape_.n_head_kv; w = work_.take()) {
            const int64_t h = w / blocks;
            const int64_t first = w % blocks * kMaxRows;
            const int64_t count = std::min(kMaxRows, n * group_ - first);
            std::array<QueryRow, kMaxRows> rows;
            for (int64_t r = 0; r < count; ++r) {
                const int64_t i = (first + r) / group_;
                QueryRow& row = rows.at(static_cast<size_t>(r));
                row = query(dst, h * group_ + (first + r) % group_, i);
                const SlotRange seen = source_.visible(layer_, h, i);
                row.begin = seen.begin;
                row.end = seen.end;
            }
            const auto asked = std::span(rows).first(static_cast<size_t>(count));
            const auto attend = rounds_ ? attend_rows_bf16 : attend_rows;
            attend(source_.rows(layer_, h), asked, scale_, scratch_.of_thread(thread));
        }
    }

    /// One piece of work: one part of the slots of one KV head, for one position's queries.
    void run_parts(const ggml_tensor* dst, int thread, int n_threads) {
        const int64_t n_answers = dst->ne[1] * shape_.n_head_kv;
        int64_t n = 0;
        for (int64_t a = 0; a < n_answers; ++a) n += n_parts(seen_by(a));
        const WorkRanges ranges(n, n_threads);
        int64_t answer = 0;  // which position and KV head
        int64_t before = 0;  // parts of the answers before that
        for (int64_t i = work_.take(); i < ranges.count(); i = work_.take()) {
            for (int64_t w = ranges[i].begin; w < ranges[i].end; ++w) {
                while (w >= before + n_parts(seen_by(answer))) {
                    before += n_parts(seen_by(answer));
                    ++answer;
                }
                run_part(dst, answer, before, w - before, thread);
            }
        }
    }

    [[nodiscard]] SlotRange seen_by(int64_t answer) const {
        return source_.visible(layer_, answer % shape_.n_head_kv, answer / shape_.n_head_kv);
    }

    void run_part(const ggml_tensor* dst, int64_t answer, int64_t before, int64_t part,
                  int thread) {
        const int64_t h = answer % shape_.n_head_kv;
        const int64_t i = answer / shape_.n_head_kv;
        const SlotRange seen = seen_by(answer);
        const int64_t length = part_slots(seen.end - seen.begin);
        const int64_t begin = seen.begin + part * length;
        std::array<QueryRow, kDecodingRows> rows;
        std::array<PartialRow, kDecodingRows> parts;
        const auto count = static_cast<size_t>(group_);
        for (size_t r = 0; r < count; ++r) {
            rows.at(r) = query(dst, h * group_ + static_cast<int64_t>(r), i);
            parts.at(r) = scratch_.part_row(before + part, static_cast<int64_t>(r));
        }
        attend_part(source_.rows(layer_, h), std::span(rows).first(count),
                    {begin, std::min(begin + length, seen.end)}, scale_,
                    std::span(parts).first(count), scratch_.of_thread(thread));
        for (size_t r = 0; r < count; ++r) {
            scratch_.keep_part(before + part, static_cast<int64_t>(r), parts.at(r));
        }
        // Whoever finishes the last part of an answer joins them, always in the same order.
        std::atomic<int64_t>& done = parts_done_[static_cast<size_t>(answer)];
        if (done.fetch_add(1, std::memory_order_acq_rel) + 1 < n_parts(seen)) return;
        done.store(0, std::memory_order_relaxed);
        for (size_t r = 0; r < count; ++r) {
            join(before, n_parts(seen), static_cast<int64_t>(r), rows.at(r));
        }
    }

    void join(int64_t first, int64_t count, int64_t row, const QueryRow& to) const {
        float* out = to.out;
        float peak = scratch_.part_row(first, row).peak;
        for (int64_t p = 1; p < count; ++p) {
            peak = std::max(peak, scratch_.part_row(first + p, row).peak);
        }
        float weight = 0;
        std::fill_n(out, shape_.d_head, 0.0F);
        for (int64_t p = 0; p < count; ++p) {
            const PartialRow part = scratch_.part_row(first + p, row);
            const float factor = std::exp2(part.peak - peak);
            weight += factor * part.weight;
            for (int64_t c = 0; c < shape_.d_head; ++c) out[c] += factor * part.sum[c];
        }
        for (int64_t c = 0; c < shape_.d_head; ++c) out[c] /= weight;
        if (to.lse != nullptr) *to.lse = std::numbers::ln2_v<float> * (peak + std::log2(weight));
    }

    const MemoryShape& shape_;
    EntrySource& source_;
    AttentionScratch& scratch_;
    int64_t layer_;
    float scale_;
    bool rounds_;
    int64_t group_;
    WorkList work_;
    std::vector<std::atomic<int64_t>> parts_done_;
};

/// dst->src: q, and whatever must run before.
class LseOp final : public CustomOp {
 public:
    LseOp(const MemoryShape& shape, EntrySource& source, AttentionScratch& scratch,
          const AttentionInputs& in)
        : shape_(shape), source_(source), scratch_(scratch), layer_(in.layer), scale_(in.scale) {}

    void run(ggml_tensor* dst, int thread, int n_threads) noexcept override {
        const ggml_tensor* q = dst->src[0];
        const int64_t group = shape_.group();
        const int64_t n = q->ne[2] * group;
        const int64_t blocks = (n + kMaxRows - 1) / kMaxRows;
        for (int64_t w = thread; w < blocks * shape_.n_head_kv; w += n_threads) {
            const int64_t h = w / blocks;
            const int64_t first = w % blocks * kMaxRows;
            const int64_t count = std::min(kMaxRows, n - first);
            std::array<QueryRow, kMaxRows> rows;
            for (int64_t r = 0; r < count; ++r) {
                const int64_t i = (first + r) / group;
                const int64_t head = h * group + (first + r) % group;
                const SlotRange seen = source_.visible(layer_, h, i);
                rows.at(static_cast<size_t>(r)) = {.q = head_row(q, head, i),
                                                   .out = nullptr,
                                                   .lse = scratch_.lse(head, i),
                                                   .begin = seen.begin,
                                                   .end = seen.end};
            }
            sum_logits(source_.rows(layer_, h), std::span(rows).first(static_cast<size_t>(count)),
                       scale_, scratch_.of_thread(thread));
        }
    }

 private:
    const MemoryShape& shape_;
    EntrySource& source_;
    AttentionScratch& scratch_;
    int64_t layer_;
    float scale_;
};

}  // namespace

bool is_decoding(const MemoryShape& shape, int64_t n) {
    return n * shape.n_head <= kDecodingRows * shape.n_head_kv && shape.d_head % 16 == 0;
}

int64_t part_slots(int64_t n_visible) {
    const int64_t length = (n_visible / 32 + 63) / 64 * 64;
    return std::clamp(length, kLeastPart, kMaxPart);
}

AttentionScratch::AttentionScratch(const MemoryShape& shape, int n_threads)
    : shape_(shape),
      n_threads_(n_threads),
      floats_per_thread_((attention_scratch_floats(shape.d_head, shape.n_head / shape.n_head_kv) +
                          kAlignFloats - 1) /
                         kAlignFloats * kAlignFloats) {
    thread_memory_.resize(floats_per_thread_ * static_cast<size_t>(n_threads_) + kAlignFloats);
}

void AttentionScratch::prepare(int64_t n, int64_t n_visible) {
    n_step_ = n;
    if (notes_lse_) lse_.resize(std::max(lse_.size(), static_cast<size_t>(n * shape_.n_head)));
    if (!is_decoding(shape_, n)) return;
    const int64_t group = shape_.n_head / shape_.n_head_kv;
    const int64_t parts = n * shape_.n_head_kv * most_parts(n_visible) * group;
    if (std::ssize(parts_) >= parts) return;
    try {
        parts_.resize(static_cast<size_t>(parts));
        sums_.resize(static_cast<size_t>(parts * shape_.d_head));
    } catch (const std::bad_alloc&) {
        throw Error(ErrorCode::kExhausted, "no memory to attend in");
    }
    for (size_t i = 0; i < parts_.size(); ++i) {
        parts_[i].sum = sums_.data() + i * static_cast<size_t>(shape_.d_head);
    }
}

float* AttentionScratch::of_thread(int thread) const {
    const auto address = reinterpret_cast<uintptr_t>(thread_memory_.data());
    const size_t skip = (64 - address % 64) % 64 / sizeof(float);
    return const_cast<float*>(thread_memory_.data()) + skip +
           floats_per_thread_ * static_cast<size_t>(thread);
}

float* AttentionScratch::lse(int64_t head, int64_t i) {
    return notes_lse_ ? lse_.data() + head * n_step_ + i : nullptr;
}

PartialRow AttentionScratch::part_row(int64_t index, int64_t row) const {
    return parts_[static_cast<size_t>(index * (shape_.n_head / shape_.n_head_kv) + row)];
}

void AttentionScratch::keep_part(int64_t index, int64_t row, const PartialRow& part) {
    parts_[static_cast<size_t>(index * (shape_.n_head / shape_.n_head_kv) + row)] = part;
}

size_t AttentionScratch::bytes() const {
    return (thread_memory_.size() + sums_.size() + lse_.size()) * sizeof(float) +
           parts_.size() * sizeof(PartialRow);
}

Tensor fused_attention(Graph& g, const MemoryShape& shape, const AttentionInputs& in,
                       EntrySource& source, AttentionScratch& scratch) {
    const std::array<Tensor, 2> entries = {in.k, in.v};
    Tensor stored =
        g.keep(g.custom({1, 1, 1, 1}, entries, std::make_unique<StoreOp>(source, in.layer)));
    const std::array<Tensor, 2> queries = {in.q, stored};
    return g.custom({shape.d_head * shape.n_head, in.q->ne[2], 1, 1}, queries,
                    std::make_unique<AttendOp>(shape, source, scratch, in));
}

Tensor note_lse(Graph& g, const MemoryShape& shape, const AttentionInputs& in, EntrySource& source,
                AttentionScratch& scratch) {
    const std::array<Tensor, 1> queries = {in.q};
    return g.keep(
        g.custom({1, 1, 1, 1}, queries, std::make_unique<LseOp>(shape, source, scratch, in)));
}

Tensor reference_attention(Graph& g, const AttentionInputs& in, Tensor k, Tensor v, Tensor mask) {
    ggml_context* c = g.ctx();
    const int64_t d = in.q->ne[0];
    const int64_t n_head = in.q->ne[1];
    const int64_t n = in.q->ne[2];
    const int64_t n_head_kv = k->ne[3];
    const auto as_f32 = [&](Tensor t) {
        return t->type == GGML_TYPE_F32 ? t : ggml_cast(c, t, GGML_TYPE_F32);
    };
    // Heads in dimension 3: there ggml's broadcasting of entries and masks over a group is exact.
    Tensor q = ggml_cont(c, ggml_permute(c, in.q, 0, 2, 1, 3));  // [d, n, n_head]
    q = ggml_reshape_4d(c, q, d, n, n_head / n_head_kv, n_head_kv);
    Tensor weights = ggml_mul_mat(c, as_f32(k), q);  // [n_slots, n, n_group, n_head_kv]
    weights = ggml_soft_max_ext(c, weights, mask, in.scale, 0.0F);
    Tensor v_columns = ggml_cont(c, ggml_transpose(c, as_f32(v)));  // [n_slots, d, 1, n_head_kv]
    Tensor out = ggml_mul_mat(c, v_columns, weights);               // [d, n, n_group, n_head_kv]
    out = ggml_reshape_3d(c, out, d, n, n_head);
    return ggml_reshape_2d(c, ggml_cont(c, ggml_permute(c, out, 0, 2, 1, 3)), d * n_head, n);
}

}  // namespace palimpsest
