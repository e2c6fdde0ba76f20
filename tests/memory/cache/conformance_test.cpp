// What every memory promises, for every kind, type of entries and path of attention: a new line in
// the table of memories is a new row here.

#include <gtest/gtest.h>

#include <cstring>
#include <sstream>
#include <string>

#include "core/error.h"
#include "core/reserved_memory.h"
#include "memory/cache/memories.h"
#include "support/golden.h"
#include "support/reference_attention.h"
#include "support/sidecar.h"

namespace palimpsest {
namespace {

using testing::max_difference;
using testing::MemoryScript;

struct Case {
    MemoryKind kind;
    ggml_type entries;
    AttentionPath path;
};

// Three queries share an entry, so up to four positions are decoded, more are read as prefill.
const MemoryShape kShape = {.n_layer = 2, .n_head = 6, .n_head_kv = 2, .d_head = 32, .windows = {}};
constexpr int64_t kContext = 320;

/// Against exact arithmetic on numbers of about 1. f32: sums of a few hundred terms. f16: keys and
/// values are off by up to 2^-12 each. q8_0: values by up to 1/254, and weights a little too.
double tolerance(ggml_type entries) {
    if (entries == GGML_TYPE_F32) return 5e-6;
    return entries == GGML_TYPE_F16 ? 2e-3 : 1.5e-2;
}

/// Two orders of summing the same f32 numbers.
constexpr double kOrder = 5e-6;

/// Of a saved state: what stands before the first head's count.
constexpr size_t kHeader = 64;

/// What code_of_loading() says of a state that was taken.
constexpr ErrorCode kTaken = ErrorCode::kInternal;

ErrorCode code_of_loading(ContextMemory& memory, const std::string& bytes) {
    std::istringstream in(bytes);
    try {
        memory.load(in);
    } catch (const Error& e) {
        return e.code();
    }
    return kTaken;
}

class Conformance : public ::testing::TestWithParam<Case> {
 protected:
    static std::unique_ptr<ContextMemory> make(const Backend& backend, const MemoryShape& shape,
                                               int64_t n_ctx = kContext) {
        const Case& c = GetParam();
        return c.kind.make({.backend = backend,
                            .shape = shape,
                            .cache = {.n_ctx = n_ctx, .entries = c.entries, .path = c.path}});
    }
    [[nodiscard]] std::unique_ptr<ContextMemory> make(const MemoryShape& shape = kShape) const {
        return make(backend, shape);
    }

    /// The script's answers from a memory of its own.
    std::vector<float> answers(const MemoryScript& script, int64_t n_chunk) {
        const auto memory = make();
        return script.run(backend, *memory, n_chunk);
    }

    /// A saved memory that has read `n` positions of the script.
    std::string saved(const MemoryScript& script, int64_t n) {
        const auto memory = make(script.shape());
        script.step(backend, *memory, 0, n);
        std::ostringstream out;
        memory->save(out);
        return out.str();
    }

    Backend backend{1};
};

TEST_P(Conformance, EqualsReferenceAttention) {
    const MemoryScript script(kShape, 150);
    EXPECT_LE(max_difference(answers(script, 70), script.expected(0, 150)),
              tolerance(GetParam().entries));
}

TEST_P(Conformance, OneChunkEqualsManyChunks) {
    const MemoryScript script(kShape, 300);
    EXPECT_LE(max_difference(answers(script, 300), answers(script, 37)), kOrder);
}

TEST_P(Conformance, OneChunkEqualsPositionByPosition) {
    const MemoryScript script(kShape, 300);
    EXPECT_LE(max_difference(answers(script, 300), answers(script, 1)), kOrder);
}

TEST_P(Conformance, UsageCountsPagesOfEntries) {
    const MemoryScript script(kShape, 300);
    const auto memory = make();
    script.step(backend, *memory, 0, 20);
    const size_t before = memory->usage().bytes;
    script.step(backend, *memory, 20, 280);
    const size_t grown = memory->usage().bytes - before;
    const auto pages = [&](size_t n) {
        return 8 * ReservedMemory::round_to_pages(n * ggml_row_size(GetParam().entries, 32));
    };
    EXPECT_GE(grown, pages(300) - pages(20));
    // Four heads' lists of positions may have doubled past 300.
    EXPECT_LE(grown, pages(300) - pages(20) + size_t{4} * 600 * sizeof(int32_t));
}

TEST_P(Conformance, UsageShrinksOnReset) {
    const MemoryScript script(kShape, 300);
    const auto memory = make();
    const size_t empty = memory->usage().bytes;
    script.step(backend, *memory, 0, 300);
    memory->reset();
    EXPECT_EQ(memory->usage().bytes, empty);
}

TEST_P(Conformance, UsageCountsPositions) {
    const MemoryScript script(kShape, 30);
    const auto memory = make();
    script.step(backend, *memory, 0, 30);
    EXPECT_EQ(memory->usage().positions_seen, 30);
    EXPECT_EQ(memory->usage().entries_held, 30);
}

TEST_P(Conformance, ResetEqualsNew) {
    const MemoryScript script(kShape, 80);
    const auto memory = make();
    MemoryScript(kShape, 200, 7).run(backend, *memory, 50);
    memory->reset();
    EXPECT_EQ(max_difference(script.run(backend, *memory, 30), answers(script, 30)), 0);
}

TEST_P(Conformance, PlanningTwiceEqualsPlanningOnce) {
    const MemoryScript script(kShape, 80);
    const auto memory = make();
    memory->plan({.n = 200, .first_pos = 0, .is_prefill = true});
    EXPECT_EQ(max_difference(script.run(backend, *memory, 30), answers(script, 30)), 0);
}

TEST_P(Conformance, SaveLoadContinueEqualsContinue) {
    const MemoryScript script(kShape, 200);
    const auto memory = make();
    script.step(backend, *memory, 0, 120);
    std::stringstream stream;
    memory->save(stream);
    const auto other = make();
    other->load(stream);
    EXPECT_EQ(
        max_difference(script.run(backend, *other, 9, 120), script.run(backend, *memory, 9, 120)),
        0);
}

TEST_P(Conformance, LoadingReplacesWhatWasThere) {
    const MemoryScript script(kShape, 200);
    const auto memory = make();
    MemoryScript(kShape, 300, 7).run(backend, *memory, 300);
    std::istringstream in(saved(script, 120));
    memory->load(in);
    const auto expected = answers(script, 120);
    const auto tail = std::span(expected).subspan(expected.size() / 200 * 120);
    EXPECT_EQ(max_difference(script.run(backend, *memory, 80, 120), tail), 0);
}

TEST_P(Conformance, LoadingWhatEndsTooEarlyIsCorrupt) {
    const std::string whole = saved(MemoryScript(kShape, 20), 20);
    const auto memory = make();
    for (size_t n = 0; n < whole.size(); n += n < 300 ? 1 : 191) {
        EXPECT_EQ(code_of_loading(*memory, whole.substr(0, n)), ErrorCode::kCorrupt) << n;
    }
}

TEST_P(Conformance, AFailedLoadLeavesAMemoryAsNew) {
    const MemoryScript script(kShape, 20);
    const std::string whole = saved(script, 20);
    const std::vector<float> expected = answers(script, 20);
    const auto memory = make();
    // Inside the header, between heads, inside entries.
    const size_t head = (whole.size() - kHeader) / 4;
    for (const size_t n : {size_t{20}, kHeader + head, kHeader + head + 4, kHeader + head + 300}) {
        code_of_loading(*memory, whole.substr(0, n));
        EXPECT_EQ(max_difference(script.run(backend, *memory, 20), expected), 0) << n;
        memory->reset();
    }
}

TEST_P(Conformance, LoadingNoiseIsCorrupt) {
    const auto memory = make();
    for (const std::string& noise :
         {std::string(), std::string("x"), std::string(4096, '\0'), std::string(4096, '\xff')}) {
        EXPECT_EQ(code_of_loading(*memory, noise), ErrorCode::kCorrupt) << noise.size();
    }
}

TEST_P(Conformance, LoadingImpossibleCountsIsCorrupt) {
    const std::string whole = saved(MemoryScript(kShape, 20), 20);
    const auto memory = make();
    // Every byte of the header and of the first head's count, set to ones.
    for (size_t n = 0; n < kHeader + 8; ++n) {
        std::string lying = whole;
        lying[n] = '\xff';
        EXPECT_EQ(code_of_loading(*memory, lying), ErrorCode::kCorrupt) << n;
    }
}

TEST_P(Conformance, LoadingFewerEntriesThanPositionsIsCorrupt) {
    std::string lying = saved(MemoryScript(kShape, 20), 20);
    lying[48] = 21;  // the count of positions in the header
    EXPECT_EQ(code_of_loading(*make(), lying), ErrorCode::kCorrupt);
}

TEST_P(Conformance, LoadingAnotherShapeIsCorrupt) {
    const auto memory = make();
    for (const MemoryShape& other : {MemoryShape{1, 6, 2, 32, {}}, MemoryShape{2, 6, 3, 32, {}},
                                     MemoryShape{2, 6, 2, 64, {}}}) {
        EXPECT_EQ(code_of_loading(*memory, saved(MemoryScript(other, 20), 20)),
                  ErrorCode::kCorrupt);
    }
}

TEST_P(Conformance, LoadingMoreThanFitsIsCorrupt) {
    const std::string whole = saved(MemoryScript(kShape, 20), 20);
    const auto smaller = make(backend, kShape, 19);
    EXPECT_EQ(code_of_loading(*smaller, whole), ErrorCode::kCorrupt);
}

TEST_P(Conformance, AFullContextIsExhausted) {
    const MemoryScript script(kShape, kContext);
    const auto memory = make();
    script.run(backend, *memory, kContext);
    try {
        memory->plan({.n = 1, .first_pos = kContext, .is_prefill = false});
        FAIL() << "it held one more";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kExhausted);
    }
}

TEST_P(Conformance, WhatDidNotFitChangesNothing) {
    const MemoryScript script(kShape, 200);
    const auto memory = make();
    script.step(backend, *memory, 0, 120);
    EXPECT_THROW(memory->plan({.n = kContext, .first_pos = 120, .is_prefill = true}), Error);
    const auto expected = answers(script, 120);
    const auto tail = std::span(expected).subspan(expected.size() / 200 * 120);
    EXPECT_EQ(max_difference(script.run(backend, *memory, 80, 120), tail), 0);
}

TEST_P(Conformance, DoesNotDependOnTheNumberOfThreads) {
    const MemoryScript script(kShape, 150);
    const auto read_then_decode = [&script](Backend& runner) {
        const auto memory = make(runner, kShape);
        std::vector<float> all = script.step(runner, *memory, 0, 130);
        const std::vector<float> decoded = script.run(runner, *memory, 4, 130);
        all.insert(all.end(), decoded.begin(), decoded.end());
        return all;
    };
    const std::vector<float> expected = read_then_decode(backend);
    // Our kernel promises the same bits; ggml's products may sum in another order.
    const double most = GetParam().path == AttentionPath::kFused ? 0 : kOrder;
    for (const int n_threads : {2, 3, 4}) {
        Backend several(n_threads);
        EXPECT_LE(max_difference(read_then_decode(several), expected), most) << n_threads;
    }
}

std::vector<Case> all_cases() {
    std::vector<Case> cases;
    for (const MemoryKind& kind : memory_kinds()) {
        if (!kind.suits(kShape)) continue;
        for (const ggml_type entries : {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q8_0}) {
            for (const AttentionPath path : {AttentionPath::kFused, AttentionPath::kReference}) {
                cases.push_back({kind, entries, path});
            }
        }
    }
    return cases;
}

INSTANTIATE_TEST_SUITE_P(Kinds, Conformance, ::testing::ValuesIn(all_cases()),
                         [](const auto& test) {
                             const Case& c = test.param;
                             return std::string(c.kind.name) + "_" + ggml_type_name(c.entries) +
                                    (c.path == AttentionPath::kFused ? "_fused" : "_reference");
                         });

// ---- what policies and residues note ------------------------------------------------------------

struct NotingParts {
    const char *policy, *residue;
    const char* tensor;  // of a sidecar: one that they use, if any
};

MemoryShape noted_shape() {
    MemoryShape shape = kShape;
    shape.n_embd = 32;
    return shape;
}

class NotedState : public ::testing::TestWithParam<NotingParts> {
 protected:
    struct Saved {
        std::string entries;  // and the header
        std::string notes;    // the rest, policy and residue last
    };

    [[nodiscard]] std::unique_ptr<KvCache> make(std::shared_ptr<const EvictionWeights> learned =
                                                    testing::small_weights(noted_shape())) const {
        EvictionOptions e = {.policy = GetParam().policy, .residue = GetParam().residue};
        e.budget = {.kind = Budget::Kind::kEntries, .count = 64, .share = 0};
        e.n_recent = 8;
        e.interval = 16;
        return std::make_unique<KvCache>(
            backend, shape,
            KvCacheOptions{.n_ctx = kContext,
                           .eviction = std::move(e),
                           .supplies = {.n_chunk = 32, .learned = std::move(learned)}});
    }

    /// Of a memory that has read `n` positions.
    Saved saved(int64_t n) {
        const auto memory = make();
        for (int64_t at = 0; at < n; at += kChunk) {
            script.step(backend, *memory, at, std::min(kChunk, n - at));
        }
        std::ostringstream out;
        memory->save(out);
        size_t end = kHeader;
        const size_t entry = sizeof(int32_t) + 2 * ggml_row_size(GGML_TYPE_F16, shape.d_head);
        for (int64_t layer = 0; layer < shape.n_layer; ++layer) {
            for (int64_t h = 0; h < shape.n_head_kv; ++h) {
                end += sizeof(int64_t) + memory->positions(layer, h).size() * entry;
            }
        }
        const std::string all = out.str();
        return {.entries = all.substr(0, end), .notes = all.substr(end)};
    }

    static constexpr int64_t kChunk = 24;
    MemoryShape shape = noted_shape();
    MemoryScript script{shape, 150};
    Backend backend{1};
};

TEST_P(NotedState, EndingTooEarlyIsCorrupt) {
    const Saved whole = saved(96);
    const auto memory = make();
    ASSERT_EQ(code_of_loading(*memory, whole.entries + whole.notes), kTaken);
    for (size_t n = 0; n < whole.notes.size(); n += 23) {
        EXPECT_EQ(code_of_loading(*memory, whole.entries + whole.notes.substr(0, n)),
                  ErrorCode::kCorrupt)
            << n;
    }
}

/// Where a lie is not found, it must be harmless: reading on and cutting stay within bounds.
TEST_P(NotedState, LyingBytesAreCorruptOrHarmless) {
    const Saved whole = saved(96);
    const auto memory = make();
    for (size_t at = 0; at < whole.notes.size(); at += 23) {
        std::string lying = whole.notes;
        lying[at] = static_cast<char>(~lying[at]);
        const ErrorCode code = code_of_loading(*memory, whole.entries + lying);
        if (code == ErrorCode::kCorrupt) continue;
        ASSERT_EQ(code, kTaken) << at;
        script.step(backend, *memory, 96, kChunk);
    }
}

TEST_P(NotedState, NotesOfFewerEntriesAreCorrupt) {
    const Saved more = saved(50);
    Saved fewer = saved(40);
    const auto memory = make();
    ASSERT_EQ(code_of_loading(*memory, fewer.entries + fewer.notes), kTaken);
    // The next position, which comes after the names and their length, is believed.
    int64_t n_names = 0;
    std::memcpy(&n_names, fewer.notes.data(), sizeof n_names);
    const size_t at = sizeof n_names + static_cast<size_t>(n_names);
    fewer.notes.replace(at, sizeof(int64_t), more.notes, at, sizeof(int64_t));
    EXPECT_EQ(code_of_loading(*memory, more.entries + fewer.notes), ErrorCode::kCorrupt);
}

TEST_P(NotedState, OfAnotherSidecarIsCorrupt) {
    if (GetParam().tensor == nullptr) return;
    const Saved whole = saved(40);
    testing::GgufBuilder sidecar = testing::small_sidecar(shape);
    sidecar.tensor(GetParam().tensor).data.replace(0, sizeof(float), testing::raw(0.125F));
    const testing::TemporaryFile file(sidecar.bytes());
    const auto other =
        std::make_shared<const EvictionWeights>(file.path(), backend, shape, BaseModel{});
    EXPECT_EQ(code_of_loading(*make(other), whole.entries + whole.notes), ErrorCode::kCorrupt);
}

INSTANTIATE_TEST_SUITE_P(
    Parts, NotedState,
    ::testing::Values(NotingParts{"h2o", "merge", nullptr},
                      NotingParts{"gate", "none", "blk.1.gate_magnitude.weight"},
                      NotingParts{"indexer", "none", "blk.1.indexer_k.weight"},
                      NotingParts{"indexer", "latent", "blk.1.memory_phi.weight"}),
    [](const auto& test) { return std::string(test.param.policy) + "_" + test.param.residue; });

}  // namespace
}  // namespace palimpsest
