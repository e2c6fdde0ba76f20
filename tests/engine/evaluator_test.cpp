// Several sequences in one graph, on a model built in code.

#include "engine/evaluator.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "engine/session.h"
#include "support/golden.h"
#include "support/tiny_model.h"

namespace palimpsest {
namespace {

using testing::max_difference;
using testing::tiny_tokens;
using testing::TinyModel;
using testing::TinyModelOptions;

// Products of other widths may sum in another order; logits are about 1.
constexpr double kOrder = 2e-5;

/// One sequence: its memory, what it has read, what it reads next.
struct Reading {
    std::unique_ptr<ContextMemory> memory;
    std::vector<TokenId> past, next;
    int64_t n_logits;

    [[nodiscard]] Lane lane(std::span<const TokenId> tokens, int64_t first, int64_t wanted) const {
        return {.memory = memory.get(),
                .step = {.n = std::ssize(tokens), .first_pos = first, .is_prefill = false},
                .runs = {{.tokens = tokens}},
                .n_logits = wanted};
    }
    [[nodiscard]] Lane past_lane() const { return lane(past, 0, 0); }
    [[nodiscard]] Lane next_lane() const { return lane(next, std::ssize(past), n_logits); }
};

std::vector<float> evaluate(Evaluator& evaluator, const std::vector<Lane>& lanes) {
    const std::span<const float> logits = evaluator.evaluate(lanes);
    return {logits.begin(), logits.end()};
}

/// Sequences of different lengths, memories, entry types and paths.
std::vector<Reading> sequences(const TinyModel& m) {
    std::vector<Reading> all;
    all.push_back({m.memory(GGML_TYPE_F32), tiny_tokens(3, 1), tiny_tokens(1, 2), 1});
    all.push_back({m.memory(GGML_TYPE_F16), tiny_tokens(50, 3), tiny_tokens(17, 4), 17});
    all.push_back({m.memory(GGML_TYPE_F32, AttentionPath::kReference), tiny_tokens(20, 5),
                   tiny_tokens(4, 6), 2});
    return all;
}

class Lanes : public ::testing::TestWithParam<const char*> {
 protected:
    TinyModel tiny{TinyModelOptions{.architecture = GetParam()}};
    Evaluator evaluator{tiny.model(), tiny.backend()};
};

TEST_P(Lanes, InOneGraphEqualEachAlone) {
    std::vector<float> alone;
    for (const Reading& s : sequences(tiny)) {
        evaluate(evaluator, {s.past_lane()});
        const std::vector<float> logits = evaluate(evaluator, {s.next_lane()});
        alone.insert(alone.end(), logits.begin(), logits.end());
    }
    const std::vector<Reading> together = sequences(tiny);
    std::vector<Lane> past;
    std::vector<Lane> next;
    for (const Reading& s : together) {
        past.push_back(s.past_lane());
        next.push_back(s.next_lane());
    }
    evaluate(evaluator, past);
    EXPECT_LE(max_difference(evaluate(evaluator, next), alone), kOrder);
}

TEST_P(Lanes, DoNotMixInReusedGraphs) {
    std::vector<Reading> all;
    for (uint32_t i = 0; i < 3; ++i) {
        all.push_back({tiny.memory(), tiny_tokens(5 + 4 * i, i), tiny_tokens(40, 10 + i), 1});
    }
    std::vector<float> alone;
    for (const Reading& s : all) {
        Session session = tiny.session();
        session.feed(s.past);
        for (const TokenId token : s.next) session.accept(token);
        alone.insert(alone.end(), session.logits().begin(), session.logits().end());
    }
    std::vector<Lane> lanes;
    lanes.reserve(all.size());
    for (const Reading& s : all) lanes.push_back(s.past_lane());
    evaluate(evaluator, lanes);
    std::vector<float> together;
    for (size_t i = 0; i < 40; ++i) {
        lanes.clear();
        for (const Reading& s : all) {
            lanes.push_back(s.lane(std::span(s.next).subspan(i, 1),
                                   std::ssize(s.past) + static_cast<int64_t>(i), 1));
        }
        together = evaluate(evaluator, lanes);
    }
    EXPECT_LE(max_difference(together, alone), kOrder);
}

INSTANTIATE_TEST_SUITE_P(Families, Lanes, ::testing::Values("llama", "gemma3"),
                         [](const auto& test) { return std::string(test.param); });

TEST(Evaluator, OneFullLaneStopsTheStepBeforeAnythingHappens) {
    TinyModel m;
    Evaluator evaluator(m.model(), m.backend());
    const Reading roomy = {m.memory(), tiny_tokens(10, 1), tiny_tokens(5, 2), 1};
    const Reading full = {m.memory(), tiny_tokens(256, 3), tiny_tokens(1, 4), 1};
    evaluate(evaluator, {roomy.past_lane(), full.past_lane()});
    EXPECT_THROW(evaluate(evaluator, {roomy.next_lane(), full.next_lane()}), Error);
    EXPECT_EQ(roomy.memory->usage().positions_seen, 10);
}

TEST(Evaluator, GoesOnWithoutTheLaneThatWasFull) {
    TinyModel m;
    Evaluator evaluator(m.model(), m.backend());
    const Reading roomy = {m.memory(), tiny_tokens(10, 1), tiny_tokens(5, 2), 1};
    const Reading full = {m.memory(), tiny_tokens(256, 3), tiny_tokens(1, 4), 1};
    evaluate(evaluator, {roomy.past_lane(), full.past_lane()});
    EXPECT_THROW(evaluate(evaluator, {roomy.next_lane(), full.next_lane()}), Error);
    const std::vector<float> after = evaluate(evaluator, {roomy.next_lane()});

    const Reading alone = {m.memory(), roomy.past, roomy.next, 1};
    evaluate(evaluator, {alone.past_lane()});
    EXPECT_LE(max_difference(after, evaluate(evaluator, {alone.next_lane()})), kOrder);
}

TEST(Evaluator, ReturnsNoLogitsWhereNoneAreWanted) {
    TinyModel m;
    Evaluator evaluator(m.model(), m.backend());
    const Reading s = {m.memory(), tiny_tokens(10, 1), {}, 0};
    EXPECT_TRUE(evaluate(evaluator, {s.past_lane()}).empty());
}

TEST(Evaluator, EqualRowsOfTheTokenTableEqualTokens) {
    TinyModel m;
    Evaluator evaluator(m.model(), m.backend());
    const Reading by_tokens = {m.memory(), tiny_tokens(6, 1), {}, 0};
    const std::vector<float> expected = evaluate(evaluator, {by_tokens.lane(by_tokens.past, 0, 6)});

    const testing::TemporaryFile file = testing::tiny_model_file();
    const GgufFile gguf = GgufFile::open(file.path());
    const auto table = gguf.find_tensor("token_embd.weight")->data;
    std::vector<float> rows;
    for (const TokenId t : by_tokens.past) {
        std::vector<float> row(testing::kTinyWidth);
        const size_t size = row.size() * sizeof(float);
        std::ranges::copy(table.subspan(static_cast<size_t>(t) * size, size),
                          std::as_writable_bytes(std::span(row)).begin());
        rows.insert(rows.end(), row.begin(), row.end());
    }
    const auto memory = m.memory();
    Lane lane = {.memory = memory.get(),
                 .step = {.n = 6, .first_pos = 0, .is_prefill = false},
                 .runs = {{.rows = rows}},
                 .n_logits = 6};
    EXPECT_EQ(max_difference(evaluate(evaluator, {lane}), expected), 0);
}

}  // namespace
}  // namespace palimpsest
