// What is particular to the cache of keys and values: windows, and real memory.

#include "memory/cache/kv_cache.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <numeric>
#include <sstream>

#include "core/error.h"
#include "core/reserved_memory.h"
#include "memory/cache/memories.h"
#include "support/golden.h"
#include "support/reference_attention.h"

namespace palimpsest {
namespace {

using testing::max_difference;
using testing::MemoryScript;

// One layer sees nine positions back, the other everything.
constexpr int64_t kWindow = 10;
const MemoryShape kShape = {
    .n_layer = 2, .n_head = 4, .n_head_kv = 2, .d_head = 16, .windows = {kWindow, 0}};

struct WindowCase {
    AttentionPath path;
    int64_t chunk;
};

class SlidingWindow : public ::testing::TestWithParam<WindowCase> {
 protected:
    Backend backend{1};
    KvCache memory{
        backend, kShape, {.n_ctx = 200, .entries = GGML_TYPE_F32, .path = GetParam().path}};
};

// Chunks shorter than the window, as long, longer, and across several moves to the front.
TEST_P(SlidingWindow, IsRespectedAcrossChunks) {
    const MemoryScript script(kShape, 150);
    // f32 sums of at most 150 numbers of about 1.
    EXPECT_LE(
        max_difference(script.run(backend, memory, GetParam().chunk), script.expected(0, 150)),
        5e-6);
}

TEST_P(SlidingWindow, KeepsWhatTheNextPositionSees) {
    MemoryScript(kShape, 150).run(backend, memory, GetParam().chunk);
    std::vector<int32_t> expected(kWindow - 1);
    std::iota(expected.begin(), expected.end(), 150 - static_cast<int32_t>(kWindow) + 1);
    const auto held = memory.positions(0, 1);
    EXPECT_EQ(std::vector<int32_t>(held.begin(), held.end()), expected);
}

TEST_P(SlidingWindow, DropsNothingInOtherLayers) {
    MemoryScript(kShape, 150).run(backend, memory, GetParam().chunk);
    EXPECT_EQ(memory.positions(1, 0).size(), 150);
}

TEST_P(SlidingWindow, SaveLoadContinueEqualsContinue) {
    const MemoryScript script(kShape, 150);
    for (int64_t at = 0; at < 100; at += GetParam().chunk) {
        script.step(backend, memory, at, std::min<int64_t>(GetParam().chunk, 100 - at));
    }
    std::stringstream stream;
    memory.save(stream);
    KvCache other(backend, kShape,
                  {.n_ctx = 200, .entries = GGML_TYPE_F32, .path = GetParam().path});
    other.load(stream);
    // The order of summing may differ: entries begin at another slot.
    EXPECT_LE(
        max_difference(script.run(backend, other, 7, 100), script.run(backend, memory, 7, 100)),
        5e-6);
}

INSTANTIATE_TEST_SUITE_P(
    Chunks, SlidingWindow, ::testing::ValuesIn([] {
        std::vector<WindowCase> cases;
        for (const AttentionPath path : {AttentionPath::kFused, AttentionPath::kReference}) {
            for (const int64_t chunk : {1, 3, 9, 10, 11, 64, 150}) cases.push_back({path, chunk});
        }
        return cases;
    }()),
    [](const auto& test) {
        return (test.param.path == AttentionPath::kFused ? "fused_" : "reference_") +
               std::to_string(test.param.chunk);
    });

TEST(KvCache, StaysBoundedWhereEveryLayerSlides) {
    const MemoryShape shape = {
        .n_layer = 1, .n_head = 1, .n_head_kv = 1, .d_head = 64, .windows = {128}};
    Backend backend(1);
    KvCache memory(backend, shape, {.n_ctx = 6000, .entries = GGML_TYPE_F32});
    const size_t empty = memory.usage().bytes;
    const MemoryScript script(shape, 6000);
    size_t most = 0;
    for (int64_t at = 0; at < 6000; at += 100) {
        script.step(backend, memory, at, 100);
        most = std::max(most, memory.usage().bytes - empty);
    }
    // Two windows behind, one in view, and the list of 227 positions grown by doubling.
    EXPECT_LE(most,
              2 * ReservedMemory::round_to_pages(size_t{3} * 128 * 64 * sizeof(float)) + 2048);
}

TEST(KvCache, CanBeFilledToTheLastPositionWithWindows) {
    Backend backend(1);
    KvCache memory(backend, kShape, {.n_ctx = 512, .entries = GGML_TYPE_F32});
    const MemoryScript script(kShape, 512);
    EXPECT_LE(max_difference(script.run(backend, memory, 31), script.expected(0, 512)), 1e-5);
}

/// Bytes of this process that are in memory.
int64_t resident_bytes() {
    std::ifstream in("/proc/self/statm");
    int64_t size = 0;
    int64_t resident = 0;
    in >> size >> resident;
    return resident * sysconf(_SC_PAGESIZE);
}

TEST(KvCache, ResetGivesMemoryBackToTheSystem) {
    if (resident_bytes() == 0) GTEST_SKIP() << "no /proc/self/statm here";
    const MemoryShape shape = {
        .n_layer = 4, .n_head = 4, .n_head_kv = 4, .d_head = 128, .windows = {}};
    Backend backend(1);
    KvCache memory(backend, shape, {.n_ctx = 1024, .entries = GGML_TYPE_F32});
    MemoryScript(shape, 500).run(backend, memory, 64);
    const auto held = static_cast<int64_t>(size_t{4} * 4 * 2 * 500 * 128 * sizeof(float));
    const int64_t before = resident_bytes();
    memory.reset();
    EXPECT_GE(before - resident_bytes(), held * 9 / 10);
}

TEST(KvCache, TakesNoMemoryBeforeItIsFed) {
    Backend backend(1);
    const KvCache memory(backend, kShape, {.n_ctx = 1000000, .entries = GGML_TYPE_F16});
    EXPECT_LT(memory.usage().bytes, size_t{1} << 20U);
}

TEST(KvCache, RefusesAContextOfNoPositions) {
    Backend backend(1);
    for (const int64_t n_ctx : {int64_t{0}, int64_t{-1}, INT64_MAX}) {
        try {
            const KvCache memory(backend, kShape, {.n_ctx = n_ctx});
            ADD_FAILURE() << n_ctx;
        } catch (const Error& e) {
            EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument) << n_ctx;
        }
    }
}

TEST(KvCache, RefusesEntriesThatTheHeadSizeCannotTake) {
    Backend backend(1);
    try {
        const KvCache memory(backend, kShape, {.n_ctx = 100, .entries = GGML_TYPE_Q8_0});
        FAIL() << "16 channels in blocks of 32";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kUnsupported);
    }
}

TEST(KvCache, RefusesHeadSizesThatTheKernelsCannotTake) {
    Backend backend(1);
    for (const int64_t d_head : {12, 520}) {
        const MemoryShape shape = {
            .n_layer = 1, .n_head = 1, .n_head_kv = 1, .d_head = d_head, .windows = {}};
        EXPECT_THROW(KvCache(backend, shape, {.n_ctx = 100, .entries = GGML_TYPE_F32}), Error)
            << d_head;
    }
}

TEST(KvCache, SavingToAFullDiskIsExhausted) {
    Backend backend(1);
    KvCache memory(backend, kShape, {.n_ctx = 100, .entries = GGML_TYPE_F32});
    std::ofstream nowhere;  // not open: every write fails
    try {
        memory.save(nowhere);
        FAIL() << "it was written nowhere";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kExhausted);
    }
}

TEST(Memories, UnknownNameListsTheKnownOnes) {
    Backend backend(1);
    try {
        make_memory("nonsense", backend, kShape, {.n_ctx = 10, .entries = GGML_TYPE_F32});
        FAIL() << "there is no such memory";
    } catch (const Error& e) {
        EXPECT_NE(std::string(e.what()).find("kv"), std::string::npos) << e.what();
    }
}

TEST(Memories, UnknownEntryTypeIsRefused) {
    EXPECT_THROW(entry_type("q4_0"), Error);
    EXPECT_EQ(entry_type("q8_0"), GGML_TYPE_Q8_0);
}

}  // namespace
}  // namespace palimpsest
