// Sequences: what they want and take, alone and together, refused, cancelled, saved.

#include "engine/sequence.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "engine/batch.h"
#include "engine/session.h"
#include "support/sidecar.h"
#include "support/tiny_model.h"

namespace palimpsest {
namespace {

using testing::tiny_tokens;
using testing::TinyModel;

constexpr int64_t kChunk = 48;

/// A memory for each of eight sequences: full, and bounded by policies of every kind.
std::vector<EvictionOptions> eight_kinds() {
    std::vector<EvictionOptions> kinds(1);
    for (const char* policy :
         {"window", "snap-kv", "h2o", "kvzip", "gate", "indexer", "leverage"}) {
        EvictionOptions e = {.policy = policy};
        if (e.policy == "snap-kv") e.settings = {{"window", "8"}};
        if (e.policy == "gate") e.residue = "latent";
        e.budget = {.kind = Budget::Kind::kEntries, .count = 64, .share = 0};
        e.n_recent = 8;
        e.interval = 16;
        kinds.push_back(e);
    }
    return kinds;
}

/// Texts to rehearse with: any tokens do.
RehearsalTexts asking() {
    return {.first = tiny_tokens(3, 50), .later = tiny_tokens(3, 51), .answer = tiny_tokens(1, 52)};
}

class Sequences : public ::testing::TestWithParam<const char*> {
 protected:
    std::unique_ptr<Sequence> sequence(const EvictionOptions& e) {
        auto memory = make_memory("kv", tiny.backend(), tiny.shape(),
                                  {.n_ctx = 256,
                                   .entries = GGML_TYPE_F32,
                                   .eviction = e,
                                   .supplies = {.n_chunk = kChunk, .learned = learned}});
        return std::make_unique<Sequence>(
            tiny.model().config(), std::move(memory),
            SequenceOptions{.n_chunk = kChunk, .rehearsal = asking(), .model = "tiny"});
    }

    TinyModel tiny{{.architecture = GetParam()}, 2};
    std::shared_ptr<const EvictionWeights> learned = testing::small_weights(tiny.shape());
};

/// Rows of the token table, as they stand once the family has scaled them.
std::vector<float> embedded(const TinyModel& tiny, std::span<const TokenId> tokens) {
    const auto table = tiny.loaded().file().find_tensor("token_embd.weight")->data;
    const auto width = static_cast<size_t>(tiny.shape().n_embd);
    const float scale = tiny.model().config().architecture == "gemma3"
                            ? std::sqrt(static_cast<float>(width))
                            : 1.0F;
    std::vector<float> rows;
    for (const TokenId t : tokens) {
        std::vector<float> row(width);
        const size_t size = width * sizeof(float);
        std::ranges::copy(table.subspan(static_cast<size_t>(t) * size, size),
                          std::as_writable_bytes(std::span(row)).begin());
        for (float& x : row) x *= scale;
        rows.insert(rows.end(), row.begin(), row.end());
    }
    return rows;
}

/// A prompt in which every other ten tokens are given as rows that stand for them.
std::vector<Segment> mixed(const TinyModel& tiny, const std::vector<TokenId>& tokens) {
    std::vector<Segment> prompt;
    for (size_t at = 0; at < tokens.size(); at += 10) {
        const std::vector<TokenId> part(
            tokens.begin() + static_cast<std::ptrdiff_t>(at),
            tokens.begin() + static_cast<std::ptrdiff_t>(std::min(at + 10, tokens.size())));
        if (at % 20 == 0) {
            prompt.push_back({.tokens = part});
        } else {
            prompt.push_back({.rows = embedded(tiny, part),
                              .row_tokens = part,
                              .row_lengths = std::vector<int32_t>(part.size(), 1)});
        }
    }
    return prompt;
}

TokenId likeliest(std::span<const float> logits) {
    return static_cast<TokenId>(std::ranges::max_element(logits) - logits.begin());
}

/// One of several that join, read, write and leave: after `joins` steps of the batch, a prompt,
/// then tokens until so many are written.
struct Guest {
    std::unique_ptr<Sequence> sequence;
    int64_t joins = 0;
    std::vector<TokenId> prompt;
    size_t n_written = 0;
    std::vector<TokenId> written = {};
    std::vector<float> last = {};

    [[nodiscard]] bool is_done() const { return written.size() >= n_written; }
    /// Between two steps of the batch, the `step`-th to come.
    void go_on(int64_t step) {
        if (step == joins) sequence->feed({{.tokens = prompt}});
        if (step <= joins || sequence->wants() || is_done()) return;
        written.push_back(likeliest(sequence->logits()));
        last.assign(sequence->logits().begin(), sequence->logits().end());
        if (!is_done()) sequence->accept(written.back());
    }
};

void run(Batch& batch, std::vector<Guest*> guests) {
    for (int64_t step = 0; !guests.empty(); ++step) {
        std::vector<Sequence*> here;
        for (Guest* g : guests) g->go_on(step);
        std::erase_if(guests, [](const Guest* g) { return g->is_done(); });
        for (Guest* g : guests) here.push_back(g->sequence.get());
        batch.step(here);
        ASSERT_LT(step, 1000);
    }
}

TEST_P(Sequences, EightTogetherEqualEachAloneBitForBitWheneverTheyJoinAndLeave) {
    const std::vector<EvictionOptions> kinds = eight_kinds();
    ASSERT_EQ(kinds.size(), 8);
    const auto guest = [&](size_t i, int64_t joins) {
        return Guest{
            .sequence = sequence(kinds[i]),
            .joins = joins,
            .prompt = tiny_tokens(60 + 17 * static_cast<int64_t>(i), static_cast<uint32_t>(i) + 1),
            .n_written = 10 + 5 * (i % 3)};
    };
    std::vector<Guest> alone;
    for (size_t i = 0; i < kinds.size(); ++i) {
        alone.push_back(guest(i, 0));
        Batch batch(tiny.model(), tiny.backend());
        run(batch, {&alone.back()});
    }
    const std::vector<std::vector<int64_t>> orders = {
        {0, 0, 0, 0, 0, 0, 0, 0}, {0, 1, 2, 3, 4, 5, 6, 7}, {9, 0, 5, 3, 3, 1, 0, 7}};
    for (const auto& joins : orders) {
        std::vector<Guest> together;
        std::vector<Guest*> all;
        for (size_t i = 0; i < kinds.size(); ++i) together.push_back(guest(i, joins[i]));
        for (Guest& g : together) all.push_back(&g);
        std::rotate(all.begin(), all.begin() + joins[0] % 8, all.end());
        Batch batch(tiny.model(), tiny.backend());
        run(batch, all);
        for (size_t i = 0; i < kinds.size(); ++i) {
            SCOPED_TRACE(cat(kinds[i].policy, " joins ", joins[i]));
            EXPECT_EQ(together[i].written, alone[i].written);
            EXPECT_EQ(together[i].last, alone[i].last);
        }
    }
}

TEST_P(Sequences, OneThatIsRefusedStopsNoOther) {
    const auto full = sequence({});
    const auto roomy = sequence(eight_kinds()[1]);
    Batch batch(tiny.model(), tiny.backend());
    full->feed({{.tokens = tiny_tokens(256)}});
    roomy->feed({{.tokens = tiny_tokens(100)}});
    const std::vector<Sequence*> both = {full.get(), roomy.get()};
    batch.run(both);
    // A memory may refuse what a sequence did not foresee: here its room was taken behind its back.
    const auto crowded = sequence({});
    crowded->feed({{.tokens = tiny_tokens(250)}});
    Evaluator evaluator(tiny.model(), tiny.backend());
    const Lane first = crowded->next_lane(200);
    crowded->took(evaluator.step(std::span(&first, 1)).front());
    const std::vector<TokenId> more = tiny_tokens(40, 2);
    const Lane behind = {.memory = first.memory,
                         .step = {.n = 40, .first_pos = kChunk},
                         .runs = {{.tokens = more}},
                         .n_logits = 0};
    for (int i = 0; i < 5; ++i) {
        Lane lane = behind;
        lane.step.first_pos = kChunk * (i + 1);
        evaluator.evaluate(std::span(&lane, 1));
    }
    roomy->accept(1);
    const std::vector<Sequence*> guests = {crowded.get(), roomy.get()};
    batch.step(guests);
    ASSERT_TRUE(crowded->failure());
    EXPECT_EQ(crowded->failure()->code(), ErrorCode::kExhausted);
    EXPECT_FALSE(crowded->wants());
    EXPECT_FALSE(roomy->failure());
    EXPECT_EQ(roomy->position(), 101);
    EXPECT_FALSE(roomy->logits().empty());
    crowded->reset();
    EXPECT_FALSE(crowded->failure());
    crowded->feed({{.tokens = tiny_tokens(10)}});
    batch.run(guests);
    EXPECT_EQ(crowded->position(), 10);
}

TEST_P(Sequences, TheFailureNamesItsSequence) {
    const auto broken = sequence({});
    const auto fine = sequence({});
    broken->feed({{.tokens = tiny_tokens(40)}});
    fine->feed({{.tokens = tiny_tokens(40)}});
    Batch batch(tiny.model(), tiny.backend());
    const std::vector<Sequence*> both = {fine.get(), broken.get()};
    batch.run(both);
    // Its memory is filled up by somebody else.
    const Lane lane = {.memory = const_cast<ContextMemory*>(&broken->memory()),
                       .step = {.n = 1, .first_pos = 40},
                       .runs = {},
                       .n_logits = 0};
    Evaluator evaluator(tiny.model(), tiny.backend());
    for (int i = 0; i < 5; ++i) {
        const std::vector<TokenId> more = tiny_tokens(40);
        Lane next = lane;
        next.step = {.n = 40, .first_pos = 40 * (i + 1)};
        next.runs = {{.tokens = more}};
        evaluator.evaluate(std::span(&next, 1));
    }
    fine->feed({{.tokens = tiny_tokens(10)}});
    broken->feed({{.tokens = tiny_tokens(16)}});
    const std::vector<TokenId> last = tiny_tokens(15);
    Lane next = lane;
    next.step = {.n = 15, .first_pos = 240};
    next.runs = {{.tokens = last}};
    evaluator.evaluate(std::span(&next, 1));
    try {
        batch.run(both);
        FAIL() << "there was room";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kExhausted);
        EXPECT_NE(std::string(e.what()).find("sequence 1"), std::string::npos) << e.what();
    }
    EXPECT_EQ(fine->position(), 50);
}

TEST_P(Sequences, AreCancelledBetweenSteps) {
    const auto stopped = sequence({});
    const auto other = sequence({});
    Batch batch(tiny.model(), tiny.backend());
    stopped->feed({{.tokens = tiny_tokens(200)}});
    other->feed({{.tokens = tiny_tokens(200)}});
    const std::vector<Sequence*> both = {stopped.get(), other.get()};
    batch.step(both);
    stopped->cancel();
    EXPECT_FALSE(stopped->wants());
    EXPECT_EQ(stopped->position(), kChunk);
    batch.run(both);
    EXPECT_EQ(stopped->position(), kChunk);
    EXPECT_EQ(other->position(), 200);
    // It goes on from where it was.
    stopped->feed({{.tokens = tiny_tokens(5)}});
    batch.run(both);
    EXPECT_EQ(stopped->position(), kChunk + 5);
}

/// A repetition lies on top of what it repeats: left half way, nothing may follow it.
TEST_P(Sequences, ARepetitionThatIsStoppedLeavesNothingToGoOnFrom) {
    EvictionOptions e = eight_kinds()[4];
    ASSERT_EQ(e.policy, "kvzip");
    const auto s = sequence(e);
    Batch batch(tiny.model(), tiny.backend());
    const std::vector<Sequence*> all = {s.get()};
    s->feed({{.tokens = tiny_tokens(100)}});
    batch.step(all);
    ASSERT_FALSE(s->is_between_steps());
    s->cancel();
    EXPECT_TRUE(s->failure());
    EXPECT_THROW(s->feed({{.tokens = tiny_tokens(5)}}), Error);
    EXPECT_THROW(s->accept(1), Error);
    std::stringstream file;
    EXPECT_THROW(s->save(file), Error);
    s->reset();
    s->feed({{.tokens = tiny_tokens(100)}});
    batch.run(all);
    const auto other = sequence(e);
    other->feed({{.tokens = tiny_tokens(100)}});
    const std::vector<Sequence*> one = {other.get()};
    batch.run(one);
    EXPECT_TRUE(std::ranges::equal(s->logits(), other->logits()));
}

/// What a chunk is too short for is said before anything is read, whatever was read last.
TEST_P(Sequences, AChunkTooShortToBeRepeatedIsRefusedByFeed) {
    auto memory = make_memory("kv", tiny.backend(), tiny.shape(),
                              {.n_ctx = 256,
                               .eviction = eight_kinds()[4],
                               .supplies = {.n_chunk = 24, .learned = learned}});
    Sequence s(tiny.model().config(), std::move(memory),
               {.n_chunk = 24, .rehearsal = asking(), .model = "tiny"});
    s.accept(1);
    Batch batch(tiny.model(), tiny.backend());
    const std::vector<Sequence*> all = {&s};
    batch.run(all);
    EXPECT_THROW(s.feed({{.tokens = tiny_tokens(50)}}), Error);
    EXPECT_FALSE(s.wants());
}

/// Rows that stand for nothing are repeated too, behind a whole request.
TEST_P(Sequences, RowsOfUnknownOriginAreRepeatedBehindAWholeRequest) {
    const EvictionOptions e = eight_kinds()[4];
    const std::vector<TokenId> tokens = tiny_tokens(90, 9);
    std::vector<Segment> rows = mixed(tiny, tokens);
    for (Segment& s : rows) {
        s.row_tokens.clear();
        s.row_lengths.clear();
    }
    const auto s = sequence(e);
    s->feed(rows);
    Batch batch(tiny.model(), tiny.backend());
    const std::vector<Sequence*> all = {s.get()};
    int repeated = 0;
    while (s->wants()) {
        if (!s->is_between_steps()) ++repeated;
        batch.step(all);
    }
    EXPECT_GT(repeated, 2);
    EXPECT_EQ(s->position(), 90);
    EXPECT_EQ(s->tokens().n_input(), 90);  // each counts as one
    EXPECT_GT(s->memory().report().n_cuts, 0);
}

// Once, logits pointed into a buffer that the next step of others wrote.
TEST_P(Sequences, LogitsAreTheirOwn) {
    const auto one = sequence({});
    const auto other = sequence({});
    Batch batch(tiny.model(), tiny.backend());
    one->feed({{.tokens = tiny_tokens(10, 1)}});
    other->feed({{.tokens = tiny_tokens(10, 2)}});
    const std::vector<Sequence*> both = {one.get(), other.get()};
    batch.run(both);
    const std::vector<float> before(one->logits().begin(), one->logits().end());
    for (int i = 0; i < 3; ++i) {
        other->accept(3);
        batch.run(both);
    }
    EXPECT_TRUE(std::ranges::equal(one->logits(), before));
}

// Once, a graph was run again for another memory that lay at the same address.
TEST_P(Sequences, ANewMemoryAtAnOldAddressHasAGraphOfItsOwn) {
    Evaluator evaluator(tiny.model(), tiny.backend());
    alignas(KvCache) std::byte place[sizeof(KvCache)];
    const std::vector<TokenId> tokens = tiny_tokens(6);
    std::vector<std::vector<float>> answers;
    for (const ggml_type entries : {GGML_TYPE_F32, GGML_TYPE_Q8_0}) {
        const MemoryShape shape = tiny.shape();
        if (shape.d_head % 32 != 0 && entries == GGML_TYPE_Q8_0) {
            // Rows of 16 channels have no q8_0; f16 shows the same.
            auto* memory = new (place) KvCache(tiny.backend(), shape, {.n_ctx = 64});
            const Lane lane = {.memory = memory, .step = {.n = 6}, .runs = {{.tokens = tokens}}};
            const auto got = evaluator.evaluate(std::span(&lane, 1));
            answers.emplace_back(got.begin(), got.end());
            std::destroy_at(memory);
            continue;
        }
        auto* memory =
            new (place) KvCache(tiny.backend(), shape, {.n_ctx = 64, .entries = entries});
        const Lane lane = {.memory = memory, .step = {.n = 6}, .runs = {{.tokens = tokens}}};
        const auto got = evaluator.evaluate(std::span(&lane, 1));
        answers.emplace_back(got.begin(), got.end());
        EXPECT_EQ(memory->usage().positions_seen, 6);
        std::destroy_at(memory);
    }
    const auto first =
        std::make_unique<KvCache>(tiny.backend(), tiny.shape(), KvCacheOptions{.n_ctx = 64});
    const auto second =
        std::make_unique<KvCache>(tiny.backend(), tiny.shape(), KvCacheOptions{.n_ctx = 64});
    EXPECT_NE(first->serial(), second->serial());
    EXPECT_NE(answers[0], answers[1]);  // f16 entries round
}

TEST_P(Sequences, GoOnFromWhereTheyWereSaved) {
    for (const EvictionOptions& e : eight_kinds()) {
        SCOPED_TRACE(e.policy);
        const auto saved = sequence(e);
        const auto loaded = sequence(e);
        Batch batch(tiny.model(), tiny.backend());
        const std::vector<Sequence*> both = {saved.get(), loaded.get()};
        saved->feed({{.tokens = tiny_tokens(120)}});
        batch.run(both);
        std::stringstream file;
        saved->save(file);
        loaded->load(file);
        EXPECT_EQ(loaded->position(), 120);
        EXPECT_TRUE(std::ranges::equal(loaded->tokens().ids(), saved->tokens().ids()));
        for (Sequence* s : both) s->feed({{.tokens = tiny_tokens(30, 2)}});
        batch.run(both);
        EXPECT_TRUE(std::ranges::equal(loaded->logits(), saved->logits()));
    }
}

// Once, a cache of another fine-tune of the same shape was taken without a word.
TEST_P(Sequences, GoBackAsIfTheyHadReadNoFurther) {
    const std::vector<TokenId> tokens = tiny_tokens(60);
    const auto read = [&](Sequence& s, size_t from, size_t to) {
        s.feed({{.tokens = {tokens.begin() + static_cast<std::ptrdiff_t>(from),
                            tokens.begin() + static_cast<std::ptrdiff_t>(to)}}});
        Sequence* one = &s;
        Batch(tiny.model(), tiny.backend()).run({&one, 1});
        return std::vector<float>(s.logits().begin(), s.logits().end());
    };
    // Not once entries may go: neither where layers slide, nor within a budget.
    EXPECT_FALSE(sequence(eight_kinds()[1])->can_rewind());
    const auto back = sequence({});
    EXPECT_EQ(back->can_rewind(), std::string_view(GetParam()) == "llama");
    if (!back->can_rewind()) return;
    const auto straight = sequence({});
    read(*straight, 0, 25);
    const std::vector<float> expected = read(*straight, 25, 45);
    read(*back, 0, 25);
    read(*back, 25, 60);
    back->rewind(25);
    EXPECT_EQ(back->position(), 25);
    EXPECT_TRUE(back->logits().empty());
    EXPECT_EQ(read(*back, 25, 45), expected);
    back->rewind(0);
    EXPECT_EQ(back->position(), 0);
    read(*back, 0, 25);
    EXPECT_EQ(read(*back, 25, 45), expected);
    EXPECT_EQ(back->memory().usage().bytes, straight->memory().usage().bytes);
}

TEST_P(Sequences, AreRefusedByAnotherModel) {
    const auto saved = sequence({});
    Batch batch(tiny.model(), tiny.backend());
    saved->feed({{.tokens = tiny_tokens(20)}});
    const std::vector<Sequence*> all = {saved.get()};
    batch.run(all);
    std::stringstream file;
    saved->save(file);
    Sequence other(tiny.model().config(), tiny.memory(),
                   {.n_chunk = kChunk, .rehearsal = {}, .model = "another"});
    try {
        other.load(file);
        FAIL() << "it was taken";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
        EXPECT_NE(std::string(e.what()).find("another model (tiny"), std::string::npos) << e.what();
    }
    EXPECT_EQ(other.position(), 0);
}

TEST_P(Sequences, DamagedStatesAreRefused) {
    const auto saved = sequence(eight_kinds()[3]);
    Batch batch(tiny.model(), tiny.backend());
    saved->feed({{.tokens = tiny_tokens(90)}});
    const std::vector<Sequence*> all = {saved.get()};
    batch.run(all);
    std::stringstream file;
    saved->save(file);
    const std::string whole = file.str();
    for (const size_t n : {size_t{0}, size_t{7}, size_t{40}, whole.size() / 2, whole.size() - 1}) {
        std::istringstream part(whole.substr(0, n));
        const auto loaded = sequence(eight_kinds()[3]);
        EXPECT_THROW(loaded->load(part), Error) << n;
        EXPECT_EQ(loaded->position(), 0);
    }
    std::string other = whole;
    other[40] = static_cast<char>(other[40] ^ 0x7F);  // a token
    other[43] = static_cast<char>(other[43] ^ 0x7F);
    std::istringstream changed(other);
    EXPECT_THROW(sequence(eight_kinds()[3])->load(changed), Error);
}

// Found by fuzzing: 29 bytes that claimed two thousand million tokens took 7.5 GB.
TEST_P(Sequences, AStateThatClaimsMuchTakesLittle) {
    const auto saved = sequence({});
    std::stringstream file;
    saved->save(file);
    std::string claims = file.str().substr(0, 8 + 8 + 4);  // magic, and the model's name
    const int64_t n = int64_t{1} << 30;
    claims.append(reinterpret_cast<const char*>(&n), sizeof n);
    std::istringstream in(claims);
    EXPECT_THROW(saved->load(in), Error);
    EXPECT_EQ(saved->position(), 0);
}

// ---- ready rows ---------------------------------------------------------------------------------

TEST_P(Sequences, RowsAmongTokensAreReadAsTheTokensTheyStandFor) {
    const std::vector<TokenId> tokens = tiny_tokens(130, 9);
    for (const EvictionOptions& e : eight_kinds()) {
        SCOPED_TRACE(e.policy);  // kvzip among them: rows are repeated as rows
        const auto by_tokens = sequence(e);
        const auto by_rows = sequence(e);
        Batch batch(tiny.model(), tiny.backend());
        const std::vector<Sequence*> both = {by_tokens.get(), by_rows.get()};
        by_tokens->feed({{.tokens = tokens}});
        by_rows->feed(mixed(tiny, tokens));
        batch.run(both);
        EXPECT_TRUE(std::ranges::equal(by_rows->logits(), by_tokens->logits()));
        EXPECT_EQ(by_rows->memory().report().held_share, by_tokens->memory().report().held_share);
        // Reports speak of the text that rows stand for.
        EXPECT_EQ(by_rows->tokens().of(0, 130), tokens);
        EXPECT_EQ(by_rows->tokens().n_input(), 130);
        EXPECT_EQ(by_rows->tokens().ids()[15], -1);
    }
}

TEST_P(Sequences, ARowStandsForAnyNumberOfTokens) {
    const auto s = sequence({});
    const std::vector<TokenId> words = tiny_tokens(8, 3);
    s->feed({{.tokens = {1, 2}},
             {.rows = embedded(tiny, std::vector<TokenId>{4, 5}),
              .row_tokens = words,
              .row_lengths = {6, 2}}});
    Batch batch(tiny.model(), tiny.backend());
    const std::vector<Sequence*> all = {s.get()};
    batch.run(all);
    EXPECT_EQ(s->position(), 4);
    EXPECT_EQ(s->tokens().n_input(), 10);
    EXPECT_EQ(s->tokens().of(3, 4), std::vector<TokenId>(words.begin() + 6, words.end()));
    std::stringstream file;
    s->save(file);
    const auto loaded = sequence({});
    loaded->load(file);
    EXPECT_EQ(loaded->tokens().of(2, 4), words);
    const auto refused = [&](Segment segment) {
        EXPECT_THROW(sequence({})->feed({std::move(segment)}), Error);
    };
    const std::vector<float> row = embedded(tiny, std::vector<TokenId>{4});
    refused({.rows = row, .row_tokens = {1}, .row_lengths = {2}});
    refused({.rows = row, .row_tokens = {1, 1}, .row_lengths = {1, 1}});
    refused({.rows = row, .row_tokens = {100000}, .row_lengths = {1}});
    refused({.rows = {row.begin(), row.end() - 1}});
}

TEST_P(Sequences, HiddenStatesAreThoseThatLogitsAreMadeOf) {
    Session session(tiny.model(), tiny.backend(), tiny.memory(), {.n_chunk = 16});
    std::vector<std::vector<float>> hidden;
    std::vector<std::vector<float>> logits;
    session.feed(tiny_tokens(30), {.on_logits =
                                       [&](int64_t position, auto row) {
                                           EXPECT_EQ(position, std::ssize(logits));
                                           logits.emplace_back(row.begin(), row.end());
                                       },
                                   .on_hidden =
                                       [&](int64_t position, auto row) {
                                           EXPECT_EQ(position, std::ssize(hidden));
                                           hidden.emplace_back(row.begin(), row.end());
                                       }});
    ASSERT_EQ(hidden.size(), 30);
    ASSERT_EQ(logits.size(), 30);
    const GgufFile& file = tiny.loaded().file();
    const GgufTensor* head = file.find_tensor("output.weight");
    if (head == nullptr) head = file.find_tensor("token_embd.weight");
    std::vector<float> weights(head->data.size() / sizeof(float));
    std::memcpy(weights.data(), head->data.data(), head->data.size());
    const float cap = tiny.model().config().final_logit_softcap;
    for (const size_t i : {size_t{0}, size_t{29}}) {
        for (size_t v = 0; v < logits[i].size(); ++v) {
            double sum = 0;
            for (size_t c = 0; c < hidden[i].size(); ++c) {
                sum += static_cast<double>(hidden[i][c]) *
                       static_cast<double>(weights[v * hidden[i].size() + c]);
            }
            if (cap > 0) sum = static_cast<double>(cap) * std::tanh(sum / static_cast<double>(cap));
            EXPECT_NEAR(static_cast<double>(logits[i][v]), sum, 1e-4);
        }
    }
    // Alone, and not of all: the same.
    Session other(tiny.model(), tiny.backend(), tiny.memory(), {.n_chunk = 16});
    std::vector<float> last;
    other.feed(tiny_tokens(30),
               {.on_hidden = [&](int64_t, auto row) { last.assign(row.begin(), row.end()); }});
    EXPECT_LE(testing::max_difference(last, hidden.back()), 2e-5);
}

INSTANTIATE_TEST_SUITE_P(Families, Sequences, ::testing::Values("llama", "gemma3"),
                         [](const auto& test) { return std::string(test.param); });

// ---- batches ------------------------------------------------------------------------------------

TEST(Batches, WantNothingOfSequencesThatDoNot) {
    TinyModel tiny;
    Batch batch(tiny.model(), tiny.backend());
    Sequence idle(tiny.model().config(), tiny.memory());
    const std::vector<Sequence*> all = {&idle};
    EXPECT_FALSE(batch.step(all));
    EXPECT_THROW(idle.feed({}), Error);
    EXPECT_THROW(idle.accept(100000), Error);
    EXPECT_FALSE(idle.wants());
}

// ggml's scheduler asserts that a graph fits the number of nodes it was made for.
TEST(Batches, OfManySequencesMakeAGraphOfAnySize) {
    TinyModel tiny({.n_layer = 6});
    std::vector<std::unique_ptr<Sequence>> sequences;
    std::vector<Sequence*> all;
    for (int i = 0; i < 64; ++i) {
        sequences.push_back(std::make_unique<Sequence>(tiny.model().config(), tiny.memory()));
        sequences.back()->feed({{.tokens = tiny_tokens(5)}});
        all.push_back(sequences.back().get());
    }
    Batch batch(tiny.model(), tiny.backend());
    batch.run(all);
    Sequence alone(tiny.model().config(), tiny.memory());
    alone.feed({{.tokens = tiny_tokens(5)}});
    const std::vector<Sequence*> one = {&alone};
    Batch(tiny.model(), tiny.backend()).run(one);
    for (const Sequence* s : all) EXPECT_TRUE(std::ranges::equal(s->logits(), alone.logits()));
}

TEST(Batches, StepsAreNoLongerThanTheirLimit) {
    TinyModel tiny;
    Sequence s(tiny.model().config(), tiny.memory());
    s.feed({{.tokens = tiny_tokens(50)}});
    Batch batch(tiny.model(), tiny.backend());
    const std::vector<Sequence*> all = {&s};
    int steps = 0;
    while (batch.step(all, 7)) ++steps;
    EXPECT_EQ(steps, 8);
    EXPECT_EQ(s.position(), 50);
}

}  // namespace
}  // namespace palimpsest
