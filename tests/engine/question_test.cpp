// The policy that is asked the question: what it weighs, what it leaves behind, and what it is
// without one.

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <sstream>

#include "engine/batch.h"
#include "memory/cache/kv_cache.h"
#include "support/golden.h"
#include "support/sidecar.h"
#include "support/tiny_model.h"

namespace palimpsest {
namespace {

using testing::tiny_tokens;
using testing::TinyModel;

constexpr int64_t kChunk = 48;

class Asked : public ::testing::TestWithParam<const char*> {
 protected:
    std::unique_ptr<Sequence> sequence(const EvictionOptions& e,
                                       std::function<void(const Cut&)> on_cut = {},
                                       int64_t chunk = kChunk) {
        KvCacheOptions options = {.n_ctx = 256, .entries = GGML_TYPE_F32, .eviction = e};
        options.supplies.n_chunk = chunk;
        options.on_cut = std::move(on_cut);
        return std::make_unique<Sequence>(tiny.model().config(),
                                          make_memory("kv", tiny.backend(), tiny.shape(), options),
                                          SequenceOptions{.n_chunk = chunk, .model = "tiny"});
    }
    static EvictionOptions bounded(const std::string& policy, int64_t entries,
                                   OptionMap settings = {}) {
        EvictionOptions e = {.policy = policy, .allocator = "uniform"};
        e.settings = std::move(settings);
        e.budget = {.kind = Budget::Kind::kEntries, .count = entries, .share = 0};
        e.n_recent = 4;
        e.interval = 16;
        return e;
    }
    void run(Sequence& s) {
        Batch batch(tiny.model(), tiny.backend());
        const std::vector<Sequence*> all = {&s};
        batch.run(all);
        EXPECT_FALSE(s.failure());
    }
    static std::vector<Segment> document_and_question(int64_t n) {
        return {{.tokens = tiny_tokens(n), .is_context = true}, {.tokens = tiny_tokens(10, 7)}};
    }

    TinyModel tiny{{.architecture = GetParam()}, 2};
};

TEST_P(Asked, WithoutAQuestionIsItsBase) {
    const auto plain = sequence(bounded("leverage", 64));
    const auto asked = sequence(bounded("question", 64, {{"base", "leverage"}}));
    for (Sequence* s : {plain.get(), asked.get()}) {
        s->feed({{.tokens = tiny_tokens(200)}});
        run(*s);
    }
    EXPECT_GT(asked->memory().report().n_cuts, 2);
    EXPECT_TRUE(std::ranges::equal(plain->logits(), asked->logits()));
}

TEST_P(Asked, AQuestionLeavesNothingBehind) {
    const auto plain = sequence(bounded("leverage", 200));
    const auto asked = sequence(bounded("question", 200));
    for (Sequence* s : {plain.get(), asked.get()}) {
        s->feed(document_and_question(120));
        run(*s);
        EXPECT_EQ(s->position(), 130);
        EXPECT_EQ(s->memory().report().n_cuts, 0);
    }
    EXPECT_EQ(asked->memory().next_position(), 130);
    EXPECT_LE(testing::max_difference(plain->logits(), asked->logits()), 1e-4);
}

/// Places, the highest first.
std::vector<double> places(std::span<const float> scores) {
    std::vector<size_t> order(scores.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::ranges::stable_sort(order, [&](size_t a, size_t b) { return scores[a] > scores[b]; });
    std::vector<double> place(scores.size());
    for (size_t i = 0; i < order.size(); ++i) place[order[i]] = static_cast<double>(i);
    return place;
}

/// Spearman's: 1 for the same order, 0 for orders that have nothing to do with each other.
double rank_correlation(std::span<const float> a, std::span<const float> b) {
    const std::vector<double> x = places(a);
    const std::vector<double> y = places(b);
    const auto n = static_cast<double>(x.size());
    double sum = 0;
    for (size_t i = 0; i < x.size(); ++i) sum += (x[i] - y[i]) * (x[i] - y[i]);
    return 1 - 6 * sum / (n * (n * n - 1));
}

/// The question on top of a text ranks its entries about as snap-kv does where it is the text's own
/// end: by the most, not the mean, of the same weights.
TEST_P(Asked, RanksEntriesByTheAttentionTheyGet) {
    constexpr size_t kText = 100;
    const std::vector<TokenId> question = tiny_tokens(10, 7);
    std::vector<Cut> asked_cuts;
    std::vector<Cut> window_cuts;
    EvictionOptions e = bounded("question", 40, {{"share", "0"}, {"kernel", "1"}});
    e.one_shot = true;
    const auto asked = sequence(
        e, [&](const Cut& c) { asked_cuts.push_back(c); }, 128);
    asked->feed({{.tokens = tiny_tokens(kText)}}, {.question = question});
    run(*asked);
    e = bounded("snap-kv", 40, {{"window", "10"}, {"kernel", "1"}});
    e.one_shot = true;
    const auto window = sequence(
        e, [&](const Cut& c) { window_cuts.push_back(c); }, 128);
    window->feed({{.tokens = tiny_tokens(kText)}, {.tokens = question}});
    run(*window);
    ASSERT_EQ(asked_cuts.size(), 1U);
    ASSERT_EQ(window_cuts.size(), 1U);
    int64_t n_compared = 0;
    for (size_t layer = 0; layer < asked_cuts[0].scores.size(); ++layer) {
        for (size_t h = 0; h < asked_cuts[0].scores[layer].size(); ++h) {
            const auto text = [&](const Cut& c) {
                return std::span<const float>(c.scores[layer][h]).first(kText);
            };
            EXPECT_GT(rank_correlation(text(asked_cuts[0]), text(window_cuts[0])), 0.6);
            ++n_compared;
        }
    }
    EXPECT_GT(n_compared, 0);
}

TEST_P(Asked, GoesOnAsSaved) {
    const EvictionOptions e = bounded("question", 64);
    const auto whole = sequence(e);
    whole->feed(document_and_question(150));
    run(*whole);
    std::stringstream file;
    whole->save(file);
    const auto again = sequence(e);
    again->load(file);
    for (Sequence* s : {whole.get(), again.get()}) {
        s->feed(document_and_question(60));
        run(*s);
        for (int i = 0; i < 40; ++i) {
            s->accept(static_cast<TokenId>(i));
            run(*s);
        }
    }
    EXPECT_TRUE(std::ranges::equal(whole->logits(), again->logits()));
}

TEST_P(Asked, RefusesABaseThatIsNone) {
    for (const char* base : {"full", "question", "kvzip", "gate", "nobody"}) {
        SCOPED_TRACE(base);
        EXPECT_THROW(
            {
                const auto s = sequence(bounded("question", 64, {{"base", base}}));
                s->feed(document_and_question(20));
            },
            Error);
    }
}

TEST_P(Asked, ALongQuestionIsCutToItsEnd) {
    const auto s = sequence(bounded("question", 64));
    s->feed({{.tokens = tiny_tokens(100), .is_context = true}, {.tokens = tiny_tokens(90, 3)}});
    run(*s);
    EXPECT_EQ(s->position(), 190);
    EXPECT_GT(s->memory().report().n_cuts, 2);
}

INSTANTIATE_TEST_SUITE_P(Models, Asked, ::testing::Values("llama", "gemma3"));

TEST(QuestionIn, IsWhatFollowsTheLastContext) {
    EXPECT_TRUE(question_in({}).empty());
    const std::vector<Segment> plain = {{.tokens = {1, 2}}};
    EXPECT_TRUE(question_in(plain).empty());
    const std::vector<Segment> all = {{.tokens = {1}}, {.tokens = {2}, .is_context = true},
                                      {.tokens = {3}}, {.tokens = {4}, .is_context = true},
                                      {.tokens = {5}}, {.tokens = {6}}};
    EXPECT_EQ(question_in(all), (std::vector<TokenId>{5, 6}));
}

}  // namespace
}  // namespace palimpsest
