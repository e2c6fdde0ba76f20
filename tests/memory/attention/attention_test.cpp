// Fused attention over entries that a test lays out itself.

#include "memory/attention/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "memory/attention/entry_store.h"
#include "memory/attention/joined_past.h"
#include "memory/attention/query_op.h"
#include "memory/kernels/attention_state.h"
#include "support/golden.h"
#include "support/reference_attention.h"

namespace palimpsest {
namespace {

using testing::attend_plainly;
using testing::max_difference;
using testing::ReferenceEntry;

/// One head's f32 entries, already there. The step's own are the last ones.
class FixedEntries final : public EntrySource {
 public:
    FixedEntries(int64_t d, int64_t n) : d_(d), k_(values(d * n, 1)), v_(values(d * n, 2)) {}

    static std::vector<float> values(int64_t n, uint32_t seed) {
        std::mt19937 engine(seed);
        std::vector<float> out(static_cast<size_t>(n));
        for (float& x : out) x = static_cast<float>(engine() >> 8U) * 0x1p-23F - 1.0F;
        return out;
    }

    void store(int64_t /*layer*/, int64_t /*head*/, int64_t /*i*/, const float* /*k*/,
               const float* /*v*/) noexcept override {}
    [[nodiscard]] EntryRows rows(int64_t /*layer*/, int64_t /*head*/) const noexcept override {
        return {.type = GGML_TYPE_F32,
                .k = reinterpret_cast<const std::byte*>(k_.data()),
                .v = reinterpret_cast<const std::byte*>(v_.data()),
                .row_bytes = static_cast<size_t>(d_) * sizeof(float),
                .d = d_};
    }
    [[nodiscard]] SlotRange visible(int64_t /*layer*/, int64_t /*head*/,
                                    int64_t i) const noexcept override {
        return seen.at(static_cast<size_t>(i));
    }

    [[nodiscard]] std::vector<ReferenceEntry> entries() const {
        std::vector<ReferenceEntry> all;
        for (int64_t at = 0; at < std::ssize(k_); at += d_) {
            all.push_back({.position = at / d_,
                           .k = {k_.begin() + at, k_.begin() + at + d_},
                           .v = {v_.begin() + at, v_.begin() + at + d_}});
        }
        return all;
    }

    std::vector<SlotRange> seen;  // by each query

 private:
    int64_t d_;
    std::vector<float> k_, v_;
};

constexpr int64_t kHeadSize = 16;
const MemoryShape kShape = {
    .n_layer = 1, .n_head = 1, .n_head_kv = 1, .d_head = kHeadSize, .windows = {}};

/// Answers to queries of one head, each with what it sees, and those of plain loops.
void expect_exact_answers(FixedEntries& source, int64_t n_visible, int n_threads) {
    const auto n = std::ssize(source.seen);
    const std::vector<float> q = FixedEntries::values(kHeadSize * n, 3);
    Backend backend(n_threads);
    AttentionScratch scratch(kShape, n_threads);
    scratch.prepare(n, n_visible);
    Graph g(64);
    const auto input = [&] {
        return g.input(GGML_TYPE_F32, {kHeadSize, 1, n, 1}, [&](std::span<std::byte> out) {
            std::memcpy(out.data(), q.data(), out.size());
        });
    };
    const AttentionInputs in = {.q = input(), .k = input(), .v = input(), .scale = 2.0F};
    Tensor answer = g.output(fused_attention(g, kShape, in, source, scratch));
    g.compute(backend);

    std::vector<float> expected;
    const std::vector<ReferenceEntry> entries = source.entries();
    for (size_t i = 0; i < source.seen.size(); ++i) {
        const auto query = std::span(q).subspan(i * kHeadSize, kHeadSize);
        const std::vector<float> out =
            attend_plainly(query, entries, {source.seen[i].begin, source.seen[i].end - 1}, 2.0).out;
        expected.insert(expected.end(), out.begin(), out.end());
    }
    // f32 sums of thousands of numbers of about 1.
    EXPECT_LE(max_difference(Graph::read(answer), expected), 5e-6);
}

// Parts grow with the number of visible slots, so a query that sees fewer may need more parts.
TEST(FusedAttention, HasRoomForQueriesThatSeeLessThanTheLast) {
    FixedEntries source(kHeadSize, 8230);
    for (int64_t i = 0; i < 12; ++i) source.seen.push_back({0, 8219 + i});
    expect_exact_answers(source, 8230, 2);
}

TEST(FusedAttention, DecodesDeepIntoAContext) {
    FixedEntries source(kHeadSize, 30000);
    source.seen = {{0, 30000}, {17, 29990}, {29999, 30000}};
    expect_exact_answers(source, 30000, 2);
}

TEST(FusedAttention, ReadsAPromptWhoseQueriesSeeDifferentRanges) {
    FixedEntries source(kHeadSize, 500);
    for (int64_t i = 0; i < 200; ++i) source.seen.push_back({i, 300 + i});
    expect_exact_answers(source, 500, 2);
}

/// One entry beside those in the store: part of the same softmax.
class OneEntry final : public JoinedPast {
 public:
    explicit OneEntry(uint32_t seed)
        : entry_{.position = 0,
                 .k = FixedEntries::values(kHeadSize, seed),
                 .v = FixedEntries::values(kHeadSize, seed + 1)} {}

    Tensor join(Graph& g, const AttentionInputs& in, Tensor attended,
                AttentionScratch& scratch) override {
        const auto change = [this, &scratch, scale = in.scale](int64_t head, int64_t token,
                                                               const float* q, float* out,
                                                               std::span<float> /*scratch*/) {
            std::array<float, 1> weight = {};
            for (size_t c = 0; c < kHeadSize; ++c) weight[0] += scale * q[c] * entry_.k[c];
            float& lse = *scratch.lse(head, token);
            lse = join_logits({out, kHeadSize}, lse, weight);
            for (size_t c = 0; c < kHeadSize; ++c) out[c] += weight[0] * entry_.v[c];
        };
        return change_answers(g, kShape, in, attended, {.n_scratch = 0, .change = change});
    }
    [[nodiscard]] const ReferenceEntry& entry() const { return entry_; }

 private:
    ReferenceEntry entry_;
};

/// What comes later joins all that came before: entries, and every past beside them.
TEST(JoinedPast, SeveralAreOneSoftmaxWithTheEntries) {
    for (const int64_t n : {1, 40}) {  // decoding, reading
        FixedEntries source(kHeadSize, 300);
        for (int64_t i = 0; i < n; ++i) source.seen.push_back({0, 300 - n + i + 1});
        const std::vector<float> q = FixedEntries::values(kHeadSize * n, 3);
        Backend backend(2);
        AttentionScratch scratch(kShape, 2);
        scratch.note_lse();
        scratch.prepare(n, 300);
        Graph g(64);
        Tensor queries = g.input(
            GGML_TYPE_F32, {kHeadSize, 1, n, 1},
            [&](std::span<std::byte> out) { std::memcpy(out.data(), q.data(), out.size()); });
        const AttentionInputs in = {.q = queries, .k = queries, .v = queries, .scale = 2.0F};
        OneEntry first(11);
        OneEntry second(21);
        Tensor answer = fused_attention(g, kShape, in, source, scratch);
        for (JoinedPast* past : {&first, &second}) answer = past->join(g, in, answer, scratch);
        g.output(answer);
        g.compute(backend);

        std::vector<ReferenceEntry> entries = source.entries();
        entries.push_back(first.entry());
        entries.push_back(second.entry());
        std::vector<float> expected;
        for (int64_t i = 0; i < n; ++i) {
            const auto query = std::span(q).subspan(static_cast<size_t>(i * kHeadSize), kHeadSize);
            const auto wanted = attend_plainly(query, entries, {0, 300 - n + i}, 2.0);
            expected.insert(expected.end(), wanted.out.begin(), wanted.out.end());
            EXPECT_NEAR(static_cast<double>(*scratch.lse(0, i)), wanted.lse, 1e-5);
        }
        EXPECT_LE(max_difference(Graph::read(answer), expected), 5e-6);
    }
}

TEST(FusedAttention, PartsAreNeverLongerThanTheKernelTakes) {
    for (int64_t n = 1; n < 300000; n += n < 10000 ? 1 : 997) {
        const int64_t length = part_slots(n);
        ASSERT_GE(length, 1) << n;
        ASSERT_LE(length, kMaxPart) << n;
    }
}

// The kernels read whole vectors, also of the last slot's row.
TEST(EntryStore, CanBeReadAVectorPastItsEnd) {
    const MemoryShape shape = {
        .n_layer = 1, .n_head = 1, .n_head_kv = 1, .d_head = 24, .windows = {}};
    for (const ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16}) {
        const EntryStore store(shape, type, 4096);  // rows fill their pages exactly
        const EntryRows rows = store.rows(0, 0);
        std::vector<std::byte> past(64);
        std::memcpy(past.data(), rows.k + 4096 * rows.row_bytes, past.size());
        std::memcpy(past.data(), rows.v + 4096 * rows.row_bytes, past.size());
        EXPECT_EQ(past.back(), std::byte{0}) << ggml_type_name(type);
    }
}

}  // namespace
}  // namespace palimpsest
