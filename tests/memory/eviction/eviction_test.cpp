// What every bounded cache promises, for every policy, allocator, residue, type of entries and
// chunk: a new line in one of the tables is a new row here.

#include "memory/eviction/eviction.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>
#include <sstream>

#include "core/error.h"
#include "memory/cache/kv_cache.h"
#include "memory/kernels/scoring_kernel.h"
#include "memory/policy/policies.h"
#include "memory/residue/residues.h"
#include "memory/rotation.h"
#include "support/golden.h"
#include "support/reference_attention.h"
#include "support/sidecar.h"

namespace palimpsest {
namespace {

using testing::attend_plainly;
using testing::max_difference;
using testing::MemoryScript;
using testing::ReferenceEntry;

constexpr int64_t kBudget = 64;
constexpr int64_t kLength = 400;
constexpr int64_t kTrained = 160;

/// Half-split pairs, slow and fast.
Rotation some_rotation() {
    Rotation r;
    for (int i = 0; i < 16; ++i)
        r.frequency.push_back(std::pow(10000.0F, -static_cast<float>(i) / 16));
    return r;
}

MemoryShape shape_of(std::vector<int64_t> windows = {}) {
    return {.n_layer = 2,
            .n_head = 4,
            .n_head_kv = 2,
            .d_head = 32,
            .windows = std::move(windows),
            .n_embd = 32,
            .n_ctx_train = kTrained,
            .rotation = some_rotation(),
            .rotation_window = some_rotation()};
}

/// Settings that make a policy's own window fit the small budget.
OptionMap small(std::string_view policy) {
    if (policy == "snap-kv" || policy == "pyramid-kv") return {{"window", "16"}};
    if (policy == "chunk-kv") return {{"window", "16"}, {"chunk", "8"}};
    if (policy == "lag-kv") return {{"lag", "8"}};
    return {};
}

struct Case {
    std::string policy = "snap-kv", allocator = {}, residue = "none";
    ggml_type entries = GGML_TYPE_F32;
    int64_t chunk = 32;
    Positions positions = Positions::kAuto;
    AttentionPath path = AttentionPath::kFused;
    bool softmax = false;  // the form of the latent memory that is published

    [[nodiscard]] std::string name() const {
        std::string text =
            cat(policy, "_", allocator, "_", residue, "_", ggml_type_name(entries), "_", chunk, "_",
                static_cast<int>(positions), path == AttentionPath::kFused ? "" : "_reference",
                softmax ? "_softmax" : "");
        std::ranges::replace(text, '-', '_');
        return text;
    }
    [[nodiscard]] KvCacheOptions options() const {
        EvictionOptions e = {.policy = policy, .allocator = allocator, .residue = residue};
        e.settings = small(policy);
        EvictionSupplies with = {.n_chunk = 32};
        if (find_policy(policy).is_learned() || find_residue(residue).is_learned) {
            with.learned = softmax ? testing::small_softmax_memory(shape_of())
                                   : testing::small_weights(shape_of());
        }
        e.budget = {.kind = Budget::Kind::kEntries, .count = kBudget, .share = 0};
        e.n_sink = 4;
        e.n_recent = 8;
        e.interval = 16;
        e.positions = positions;
        with.output_weights = [](int64_t layer) {
            std::vector<float> w(static_cast<size_t>(32 * 128));
            for (size_t i = 0; i < w.size(); ++i) {
                w[i] = static_cast<float>((i * 7 + static_cast<size_t>(layer)) % 11) - 5.0F;
            }
            return w;
        };
        return {.n_ctx = kTrained,
                .entries = entries,
                .path = path,
                .eviction = std::move(e),
                .supplies = std::move(with)};
    }
};

double tolerance(ggml_type entries) {
    if (entries == GGML_TYPE_F32) return 2e-5;
    return entries == GGML_TYPE_F16 ? 4e-3 : 4e-2;
}

class Bounded : public ::testing::TestWithParam<Case> {
 protected:
    MemoryShape shape = shape_of();
    MemoryScript script{shape, kLength};
    Backend backend{1};

    [[nodiscard]] std::unique_ptr<KvCache> make() const {
        return std::make_unique<KvCache>(backend, shape, GetParam().options());
    }

    [[nodiscard]] int64_t held(const KvCache& memory) const {
        int64_t n = 0;
        for (int64_t l = 0; l < shape.n_layer; ++l) {
            for (int64_t h = 0; h < shape.n_head_kv; ++h) n += std::ssize(memory.positions(l, h));
        }
        return n;
    }

    void expect_bounds(const KvCache& memory, int64_t seen) const {
        const int64_t heads = shape.n_layer * shape.n_head_kv;
        EXPECT_LE(held(memory), heads * kBudget) << "after " << seen;
        for (int64_t l = 0; l < shape.n_layer; ++l) {
            for (int64_t h = 0; h < shape.n_head_kv; ++h) {
                const auto positions = memory.positions(l, h);
                const std::vector<int32_t> rotary = memory.rotary(l, h);
                ASSERT_GE(std::ssize(positions), std::min<int64_t>(12, seen));
                for (int64_t i = 0; i < std::min<int64_t>(4, seen); ++i) {
                    EXPECT_EQ(positions[static_cast<size_t>(i)], i);
                }
                for (int64_t i = 1; i <= std::min<int64_t>(8, seen); ++i) {
                    EXPECT_EQ(positions[positions.size() - static_cast<size_t>(i)], seen - i);
                }
                EXPECT_TRUE(std::ranges::is_sorted(positions));
                EXPECT_TRUE(std::ranges::is_sorted(rotary));
                EXPECT_LT(rotary.back(), memory.next_position());
            }
        }
        EXPECT_LE(memory.next_position(), kTrained);
    }
};

TEST_P(Bounded, BudgetAndProtectionHoldAtEveryStep) {
    const auto memory = make();
    std::vector<Segment> prompt(1);
    prompt[0].tokens.resize(kLength);
    memory->admit(prompt);  // or single positions would count as written ones
    for (int64_t at = 0; at < kLength; at += GetParam().chunk) {
        const int64_t n = std::min(GetParam().chunk, kLength - at);
        script.step(backend, *memory, at, n);
        expect_bounds(*memory, at + n);
    }
    EXPECT_LT(memory->positions(0, 0).size(), static_cast<size_t>(kLength));
}

TEST_P(Bounded, ResetEqualsNew) {
    const auto used = make();
    MemoryScript(shape, 200, 7).run(backend, *used, GetParam().chunk);
    used->reset();
    const auto fresh = make();
    EXPECT_EQ(max_difference(script.run(backend, *used, GetParam().chunk),
                             script.run(backend, *fresh, GetParam().chunk)),
              0);
}

TEST_P(Bounded, SaveLoadContinueEqualsContinue) {
    const auto memory = make();
    const int64_t n = 224;
    for (int64_t at = 0; at < n; at += GetParam().chunk) {
        script.step(backend, *memory, at, std::min(GetParam().chunk, n - at));
    }
    std::stringstream stream;
    memory->save(stream);
    const auto other = make();
    other->load(stream);
    EXPECT_EQ(max_difference(script.run(backend, *other, GetParam().chunk, n),
                             script.run(backend, *memory, GetParam().chunk, n)),
              0);
}

TEST_P(Bounded, DoesNotDependOnTheNumberOfThreads) {
    const auto one = make();
    Backend three(3);
    KvCache several(three, shape, GetParam().options());
    const double most = GetParam().path == AttentionPath::kFused ? 0 : 1e-5;
    EXPECT_LE(max_difference(script.run(backend, *one, GetParam().chunk),
                             script.run(three, several, GetParam().chunk)),
              most);
}

/// What plain loops over exactly the entries held before a step, and the step's own, answer.
class Plainly {
 public:
    Plainly(const MemoryScript& script, const Case& c) : script_(script), case_(c) {}

    /// To be called before the step.
    std::vector<float> expected(const KvCache& memory, int64_t first, int64_t n) {
        const MemoryShape& shape = script_.shape();
        const double scale = 1.0 / std::sqrt(static_cast<double>(shape.d_head));
        for (int64_t i = 0; i < n; ++i) {
            stored_at_[first + i] = memory.next_position() + i;
        }
        std::vector<std::vector<ReferenceEntry>> entries;
        for (int64_t l = 0; l < shape.n_layer; ++l) {
            for (int64_t h = 0; h < shape.n_head_kv; ++h) {
                entries.push_back(entries_of(memory, l, h, first, n));
            }
        }
        std::vector<float> out;
        for (int64_t i = first; i < first + n; ++i) {
            for (int64_t l = 0; l < shape.n_layer; ++l) {
                for (int64_t h = 0; h < shape.n_head; ++h) {
                    const auto kv = static_cast<size_t>(l * shape.n_head_kv + h / shape.group());
                    const auto answer = attend_plainly(script_.query(l, h, i), entries[kv],
                                                       {.first = 0, .last = i}, scale);
                    out.insert(out.end(), answer.out.begin(), answer.out.end());
                }
            }
        }
        return out;
    }

 private:
    std::vector<ReferenceEntry> entries_of(const KvCache& memory, int64_t l, int64_t h,
                                           int64_t first, int64_t n) {
        std::vector<ReferenceEntry> entries;
        const auto positions = memory.positions(l, h);
        const std::vector<int32_t> rotary = memory.rotary(l, h);
        Turner turner(script_.shape().rotation);
        for (size_t i = 0; i < positions.size(); ++i) {
            ReferenceEntry e = script_.entry(l, h, positions[i]);
            turner.turn(e.k.data(), rotary[i] - stored_at_[positions[i]]);
            entries.push_back(std::move(e));
        }
        for (int64_t p = first; p < first + n; ++p) entries.push_back(script_.entry(l, h, p));
        return entries;
    }

    const MemoryScript& script_;
    const Case& case_;
    std::map<int64_t, int64_t> stored_at_;  // RoPE position a key came with
};

TEST_P(Bounded, EqualsReferenceAttentionOverWhatIsKept) {
    if (GetParam().residue != "none") GTEST_SKIP() << "values change when others join them";
    const auto memory = make();
    Plainly plainly(script, GetParam());
    double most = 0;
    for (int64_t at = 0; at < kLength; at += GetParam().chunk) {
        const int64_t n = std::min(GetParam().chunk, kLength - at);
        const std::vector<float> expected = plainly.expected(*memory, at, n);
        most = std::max(most, max_difference(script.step(backend, *memory, at, n), expected));
    }
    EXPECT_LE(most, tolerance(GetParam().entries));
}

/// Policies that score by what the engine repeats for them are tested with an engine.
std::vector<std::string> scored_policies() {
    std::vector<std::string> names;
    for (const PolicyKind& kind : policy_kinds()) {
        const bool is_rehearsed = kind.name == "kvzip" || kind.name == "question";
        if (kind.make != nullptr && !is_rehearsed) names.emplace_back(kind.name);
    }
    return names;
}

std::vector<Case> all_cases() {
    std::vector<Case> cases;
    for (const std::string& policy : scored_policies()) {
        const std::string usual(find_policy(policy).allocator);
        for (const ggml_type entries : {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q8_0}) {
            cases.push_back({.policy = policy, .allocator = usual, .entries = entries});
        }
        for (const int64_t chunk : {1, 7}) {
            cases.push_back({.policy = policy, .allocator = usual, .chunk = chunk});
        }
        cases.push_back({.policy = policy, .allocator = usual, .positions = Positions::kCompact});
        cases.push_back({.policy = policy, .allocator = usual, .path = AttentionPath::kReference});
        for (const AllocatorKind& allocator : allocator_kinds()) {
            if (allocator.name == usual || policy == "chunk-kv") continue;
            cases.push_back({.policy = policy, .allocator = std::string(allocator.name)});
        }
        for (const ResidueKind& residue : residue_kinds()) {
            if (residue.make == nullptr) continue;
            cases.push_back(
                {.policy = policy, .allocator = usual, .residue = std::string(residue.name)});
        }
    }
    for (const char* policy : {"window", "key-diff"}) {
        const std::string usual(find_policy(policy).allocator);
        for (const Positions positions : {Positions::kAuto, Positions::kCompact}) {
            cases.push_back({.policy = policy,
                             .allocator = usual,
                             .residue = "latent",
                             .entries = GGML_TYPE_F16,
                             .positions = positions,
                             .softmax = true});
        }
    }
    return cases;
}

INSTANTIATE_TEST_SUITE_P(Policies, Bounded, ::testing::ValuesIn(all_cases()),
                         [](const auto& test) { return test.param.name(); });

// ---- particular promises
// --------------------------------------------------------------------------

const Case kWindow = {.policy = "window", .allocator = "uniform"};

TEST(Eviction, ChunksDoNotChangeWhatAWindowKeeps) {
    const MemoryShape shape = shape_of();
    const MemoryScript script(shape, kLength);
    Backend backend(1);
    std::vector<std::vector<int32_t>> kept;
    for (const int64_t chunk : {32, 20, 8}) {
        KvCache memory(backend, shape, kWindow.options());
        script.run(backend, memory, chunk);
        const auto positions = memory.positions(1, 1);
        kept.emplace_back(positions.begin(), positions.end());
    }
    EXPECT_EQ(kept[0], kept[1]);
    EXPECT_EQ(kept[0], kept[2]);
    EXPECT_EQ(kept[0].size(), kBudget);
    EXPECT_EQ(kept[0][4], kLength - kBudget + 4);
}

TEST(Eviction, OneShotDoesNotDependOnChunks) {
    const MemoryShape shape = shape_of();
    const MemoryScript script(shape, 150);
    Backend backend(1);
    for (const std::string& policy : scored_policies()) {
        std::vector<std::vector<int32_t>> kept;
        for (const int64_t chunk : {150, 32, 9}) {
            Case c = {.policy = policy};
            KvCacheOptions options = c.options();
            options.eviction.one_shot = true;
            options.supplies.n_chunk = 150;
            KvCache memory(backend, shape, options);
            script.run(backend, memory, chunk);
            const auto positions = memory.positions(1, 0);
            kept.emplace_back(positions.begin(), positions.end());
        }
        EXPECT_EQ(kept[0], kept[1]) << policy;
        EXPECT_EQ(kept[0], kept[2]) << policy;
        EXPECT_LT(std::ssize(kept[0]), 150) << policy;
    }
}

TEST(Eviction, WritingIsCutEveryInterval) {
    const MemoryShape shape = shape_of();
    const MemoryScript script(shape, kLength);
    Backend backend(1);
    KvCacheOptions options = kWindow.options();
    KvCache memory(backend, shape, options);
    std::vector<Segment> prompt(1);
    prompt[0].tokens.resize(96);
    memory.admit(prompt);
    for (int64_t at = 0; at < 96; at += 32) script.step(backend, memory, at, 32);
    for (int64_t at = 96; at < 200; ++at) {
        const Step step = {.n = 1, .first_pos = memory.next_position()};
        memory.plan(step);
        memory.settle(step);
        const int64_t written = (at - 95) % 16;
        EXPECT_EQ(std::ssize(memory.positions(0, 0)), kBudget + written) << at;
    }
}

TEST(Eviction, MarkedSpansStay) {
    const MemoryShape shape = shape_of();
    const MemoryScript script(shape, kLength);
    Backend backend(1);
    KvCache memory(backend, shape, kWindow.options());
    std::vector<Segment> prompt(3);
    prompt[0].tokens.resize(50);
    prompt[1].tokens.resize(10);
    prompt[1].keep = true;
    prompt[2].tokens.resize(340);
    memory.admit(prompt);
    script.run(backend, memory, 32);
    for (int64_t l = 0; l < 2; ++l) {
        const auto positions = memory.positions(l, 1);
        for (int32_t p = 50; p < 60; ++p) EXPECT_TRUE(std::ranges::binary_search(positions, p));
        EXPECT_EQ(positions.size(), kBudget);
    }
    EXPECT_EQ(memory.report().n_pinned, 10);
}

TEST(Eviction, TheQuestionCanBeReadWithoutForgetting) {
    const MemoryShape shape = shape_of();
    const MemoryScript script(shape, kLength);
    Backend backend(1);
    KvCache memory(backend, shape, kWindow.options());
    for (int64_t at = 0; at < 320; at += 32) script.step(backend, memory, at, 32);
    const auto n_cuts = memory.report().n_cuts;
    const Step step = {.n = 40, .first_pos = memory.next_position(), .kind = StepKind::kAside};
    memory.plan(step);
    memory.settle(step);
    EXPECT_EQ(memory.report().n_cuts, n_cuts);
    EXPECT_EQ(std::ssize(memory.positions(0, 0)), kBudget + 40);
}

TEST(Eviction, BytesOwnedAreTheBudgetsArithmetic) {
    const MemoryShape shape = shape_of();
    const MemoryScript script(shape, kLength);
    Backend backend(1);
    for (const ggml_type type : {GGML_TYPE_F16, GGML_TYPE_Q8_0}) {
        Case c = kWindow;
        c.entries = type;
        KvCache memory(backend, shape, c.options());
        script.run(backend, memory, 32);
        const MemoryReport report = memory.report();
        const size_t row = ggml_row_size(type, 32);
        EXPECT_EQ(report.bytes.entries,
                  size_t{4} * 2 * ReservedMemory::round_to_pages(kBudget * row));
        // The list of positions, and since they were made contiguous the list of those.
        EXPECT_EQ(report.bytes.bookkeeping, size_t{4} * 2 * (kBudget + 32) * sizeof(int32_t));
    }
}

TEST(Eviction, UnevenHeadsCostTheirSum) {
    const MemoryShape shape = shape_of();
    const MemoryScript script(shape, kLength);
    Backend backend(1);
    for (const char* allocator : {"adaptive", "global", "pyramid", "mass"}) {
        const Case c = {.policy = "key-norm", .allocator = allocator};
        KvCache memory(backend, shape, c.options());
        script.run(backend, memory, 32);
        size_t expected = 0;
        int64_t sum = 0;
        int64_t most = 0;
        for (const MemoryReport::Layer& layer : memory.report().layers) {
            for (const int64_t n : layer.held) {
                expected +=
                    2 * ReservedMemory::round_to_pages(static_cast<size_t>(n) * 32 * sizeof(float));
                sum += n;
                most = std::max(most, n);
            }
        }
        EXPECT_EQ(memory.report().bytes.entries, expected) << allocator;
        EXPECT_EQ(sum, 4 * kBudget) << allocator;
        EXPECT_GT(most, kBudget) << allocator;
    }
}

TEST(Eviction, AByteBudgetHoldsAtEveryMoment) {
    MemoryShape shape = shape_of({0, 24});
    const MemoryScript script(shape, kLength);
    Backend backend(1);
    for (const std::string& policy : scored_policies()) {
        for (const auto& [allocator, residue] : {std::pair("uniform", "none"),
                                                 {"adaptive", "none"},
                                                 {"mass", "none"},
                                                 {"uniform", "merge"},
                                                 {"uniform", "latent"},
                                                 {"uniform", "centroids"}}) {
            if (policy == "chunk-kv") continue;
            Case c = {.policy = policy, .allocator = allocator, .residue = residue};
            KvCacheOptions options = c.options();
            options.eviction.budget = {.kind = Budget::Kind::kBytes, .count = 600000, .share = 0};
            KvCache memory(backend, shape, options);
            EXPECT_GT(memory.budget_entries(), 20) << policy;
            for (int64_t at = 0; at < kLength; at += 32) {
                script.step(backend, memory, at, std::min<int64_t>(32, kLength - at));
            }
            EXPECT_LE(memory.report().peak_bytes, 600000)
                << policy << " " << allocator << " " << residue;
        }
    }
}

TEST(Eviction, SlidingLayersAreLeftToTheirWindow) {
    const MemoryShape shape = shape_of({24, 0});
    const MemoryScript script(shape, kLength);
    Backend backend(1);
    for (const Positions positions : {Positions::kAuto, Positions::kCompact}) {
        Case c = kWindow;
        c.positions = positions;
        KvCache memory(backend, shape, c.options());
        script.run(backend, memory, 32);
        EXPECT_EQ(memory.positions(0, 0).size(), 23);
        EXPECT_EQ(memory.positions(1, 0).size(), kBudget);
        EXPECT_EQ(memory.report().layers[0].window, 24);
    }
}

/// They evict nothing, so that notes on their entries would only grow.
TEST(Eviction, NothingIsNotedOfEntriesInSlidingLayers) {
    const MemoryShape shape = shape_of({24, 0});
    const MemoryScript script(shape, 64);
    Backend backend(1);
    for (const char* policy : {"h2o", "kvzip"}) {
        Case c = kWindow;
        c.policy = policy;
        KvCache memory(backend, shape, c.options());
        for (const int64_t at : {0, 32}) script.step(backend, memory, at, 32);
        const auto held = std::ssize(memory.positions(1, 0)) + std::ssize(memory.positions(1, 1));
        EXPECT_LE(memory.report().bytes.policy, static_cast<size_t>(held) * sizeof(float))
            << policy;
    }
}

TEST(Eviction, TurningAKeyIsTheSameAsStoringItElsewhere) {
    for (const bool adjacent : {false, true}) {
        Rotation rotation = some_rotation();
        rotation.adjacent = adjacent;
        std::vector<float> raw(32);
        for (size_t i = 0; i < raw.size(); ++i) raw[i] = std::sin(static_cast<float>(i));
        std::vector<float> direct = raw;
        Turner(rotation).turn(direct.data(), 700);
        std::vector<float> detour = raw;
        Turner turner(rotation);
        for (const int64_t by : {5000, -4100, -300, 100}) turner.turn(detour.data(), by);
        EXPECT_LE(max_difference(detour, direct), 2e-6);
    }
}

// ---- bad input
// ------------------------------------------------------------------------------------

struct Refused {
    const char* name;
    std::function<void(EvictionOptions&)> spoil;
    ErrorCode code;
    const char* says;
};

class BadEviction : public ::testing::TestWithParam<Refused> {};

TEST_P(BadEviction, IsRefusedWithASentence) {
    const MemoryShape shape = shape_of();
    Backend backend(1);
    KvCacheOptions options = kWindow.options();
    GetParam().spoil(options.eviction);
    try {
        const KvCache memory(backend, shape, options);
        FAIL() << "it was accepted";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), GetParam().code) << e.what();
        EXPECT_NE(std::string(e.what()).find(GetParam().says), std::string::npos) << e.what();
    }
}

INSTANTIATE_TEST_SUITE_P(
    Options, BadEviction,
    ::testing::Values(Refused{"unknown_policy", [](auto& e) { e.policy = "snapkv"; },
                              ErrorCode::kNotFound, "did you mean 'snap-kv'"},
                      Refused{"unknown_allocator", [](auto& e) { e.allocator = "adaptve"; },
                              ErrorCode::kNotFound, "did you mean 'adaptive'"},
                      Refused{"unknown_residue", [](auto& e) { e.residue = "merg"; },
                              ErrorCode::kNotFound, "did you mean 'merge'"},
                      Refused{"unknown_setting", [](auto& e) { e.settings["windw"] = "3"; },
                              ErrorCode::kInvalidArgument, "windw"},
                      Refused{"setting_no_number", [](auto& e) { e.settings["sinks"] = "many"; },
                              ErrorCode::kInvalidArgument, "sinks=many"},
                      Refused{"budget_below_protected", [](auto& e) { e.budget.count = 12; },
                              ErrorCode::kInvalidArgument, "4 first, 8 last"},
                      Refused{"budget_over_context", [](auto& e) { e.budget.count = 150; },
                              ErrorCode::kInvalidArgument, "150"},
                      Refused{"bytes_for_nothing",
                              [](auto& e) {
                                  e.budget = {
                                      .kind = Budget::Kind::kBytes, .count = 5000, .share = 0};
                              },
                              ErrorCode::kInvalidArgument, "5000 bytes"},
                      Refused{"no_budget", [](auto& e) { e.budget = {}; },
                              ErrorCode::kInvalidArgument, "needs a memory budget"},
                      Refused{"budget_for_full", [](auto& e) { e.policy = "full"; },
                              ErrorCode::kInvalidArgument, "forgets nothing"},
                      Refused{"zero_interval", [](auto& e) { e.interval = 0; },
                              ErrorCode::kInvalidArgument, "interval of 0"},
                      Refused{"runs_in_uneven_heads",
                              [](auto& e) {
                                  e.policy = "chunk-kv";
                                  e.allocator = "adaptive";
                                  e.settings = {{"window", "16"}};
                              },
                              ErrorCode::kInvalidArgument, "same runs"},
                      Refused{"missing_sketch",
                              [](auto& e) {
                                  e.policy = "leverage";
                                  e.settings = {{"sketch", "/nonexistent"}};
                              },
                              ErrorCode::kNotFound, "/nonexistent"}),
    [](const auto& test) { return test.param.name; });

TEST(BadEviction, PinnedPartsLargerThanTheBudgetAreRefusedBeforeReading) {
    const MemoryShape shape = shape_of();
    Backend backend(1);
    KvCache memory(backend, shape, kWindow.options());
    std::vector<Segment> prompt(2);
    prompt[0].tokens.resize(60);
    prompt[0].keep = true;
    prompt[1].tokens.resize(100);
    try {
        memory.admit(prompt);
        FAIL() << "68 protected of 64";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
        EXPECT_NE(std::string(e.what()).find("60 marked"), std::string::npos) << e.what();
    }
}

TEST(BadEviction, ASavedStateOfAnotherPolicyIsCorrupt) {
    const MemoryShape shape = shape_of();
    Backend backend(1);
    KvCache memory(backend, shape, kWindow.options());
    MemoryScript(shape, 100).run(backend, memory, 32);
    std::stringstream stream;
    memory.save(stream);
    const Case other_case = {.policy = "key-norm"};
    KvCache other(backend, shape, other_case.options());
    EXPECT_THROW(other.load(stream), Error);
    EXPECT_EQ(other.usage().positions_seen, 0);
}

}  // namespace
}  // namespace palimpsest
