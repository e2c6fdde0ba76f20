// A prefix as a dictionary, under a model: split and merge, identity, files, and what is refused.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>

#include "core/error.h"
#include "engine/session.h"
#include "memory/attention_state.h"
#include "memory/prefix_file.h"
#include "memory/prefix_trace.h"
#include "support/golden.h"
#include "support/tiny_model.h"

namespace palimpsest {
namespace {

using testing::all_logits;
using testing::max_difference;
using testing::tiny_tokens;
using testing::TinyModel;

constexpr int64_t kPrefix = 60;

std::vector<TokenId> joined(std::vector<TokenId> a, const std::vector<TokenId>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

std::vector<float> last(const std::vector<float>& logits, size_t n_tokens) {
    const size_t n = n_tokens * static_cast<size_t>(testing::kTinyVocab);
    return {logits.end() - static_cast<std::ptrdiff_t>(n), logits.end()};
}

/// A prefix that was read, and what traces saw of it.
class Traced {
 public:
    explicit Traced(TinyModel& tiny, PrefixLayout layout, PrefixKeys keys = PrefixKeys::kPost)
        : tiny_(tiny), keys_(keys), layout_(layout) {
        auto memory =
            std::make_unique<ExactPrefix>(tiny.backend(), tiny.shape(), GGML_TYPE_F32, kPrefix);
        prefix_ = memory.get();
        reader_ = std::make_unique<Session>(tiny.model(), tiny.backend(), std::move(memory));
        reader_->feed(tiny_tokens(kPrefix));
        records_.resize(static_cast<size_t>(tiny.shape().n_layer * layout.n_codebooks()),
                        {.n_block = layout.blocks(), .d_head = layout.d_head});
    }

    /// Logits of every position of a trace.
    std::vector<float> follow(const std::vector<TokenId>& trace, int64_t n_chunk = 512) {
        Session session(
            tiny_.model(), tiny_.backend(),
            std::make_unique<TraceMemory>(tiny_.backend(), *prefix_, 200, keys_,
                                          [this](int64_t /*first*/, int64_t n,
                                                 std::span<const TracedLayer> l) { add(n, l); }),
            {.n_chunk = n_chunk});
        return all_logits(session, trace);
    }

    [[nodiscard]] PrefixHeader header() const {
        PrefixHeader h;
        h.name = "tiny";
        h.tokens = tiny_tokens(kPrefix);
        h.n_layer = tiny_.shape().n_layer;
        h.layout = layout_;
        h.keys = keys_;
        return h;
    }

    /// All records, or k clusters of them.
    [[nodiscard]] std::shared_ptr<const PrefixDocument> document(
        int64_t k = 0, PrefixStorage storage = PrefixStorage::kF16, bool with_exact = false,
        float floor = -2, bool has_lists = false) const {
        PrefixAssembly assembly(header(), storage);
        const int64_t c = layout_.n_codebooks();
        for (int64_t l = 0; l < tiny_.shape().n_layer; ++l) {
            std::vector<Codebook> books;
            for (int64_t i = 0; i < c; ++i) {
                const StateRecords& r = records_[static_cast<size_t>(l * c + i)];
                books.push_back(k > 0 ? build_codebook(tiny_.backend(), r, {.k = k})
                                      : unclustered(r));
            }
            std::vector<EntryLists> lists;
            for (Codebook& book : books) {
                if (has_lists) lists.push_back(put_in_lists(tiny_.backend(), book, 1));
            }
            assembly.add_layer(books, lists);
        }
        if (floor > -2) {
            assembly.set_floors(std::vector<float>(records_.size(), floor));
        }
        if (with_exact) set_exact(assembly);
        return std::make_shared<const PrefixDocument>(assembly.document(header()));
    }

    [[nodiscard]] const std::vector<StateRecords>& records() const { return records_; }

 private:
    void add(int64_t n, std::span<const TracedLayer> layers) {
        const int64_t n_codebooks = layout_.n_codebooks();
        for (size_t l = 0; l < layers.size(); ++l) {
            for (int64_t w = 0; w < n * n_codebooks * layout_.rows(); ++w) {
                const int64_t i = w / (n_codebooks * layout_.rows());
                const int64_t c = w / layout_.rows() % n_codebooks;
                StateRecords& to =
                    records_[l * static_cast<size_t>(n_codebooks) + static_cast<size_t>(c)];
                for (int64_t b = 0; b < layout_.blocks(); ++b) {
                    const int64_t head = layout_.head(c, w % layout_.rows(), b);
                    add_head(layers[l], i * layout_.n_head + head, to);
                }
            }
        }
    }

    /// Number `at` of what a layer saw.
    void add_head(const TracedLayer& layer, int64_t at, StateRecords& to) const {
        const auto copy = [&](const std::vector<float>& from, std::vector<float>& into,
                              int64_t width) {
            into.insert(into.end(), from.begin() + at * width, from.begin() + (at + 1) * width);
        };
        copy(layer.keys, to.keys, layout_.d_head);
        copy(layer.outputs, to.outputs, layout_.d_head);
        copy(layer.lse, to.lse, 1);
    }

    void set_exact(PrefixAssembly& assembly) const {
        // The same prefix, read into entries of f16.
        auto memory =
            std::make_unique<ExactPrefix>(tiny_.backend(), tiny_.shape(), GGML_TYPE_F16, kPrefix);
        const ExactPrefix& exact = *memory;
        Session session(tiny_.model(), tiny_.backend(), std::move(memory));
        session.feed(tiny_tokens(kPrefix));
        for (int64_t l = 0; l < tiny_.shape().n_layer; ++l) {
            std::vector<EntryRows> heads;
            for (int64_t h = 0; h < tiny_.shape().n_head_kv; ++h) heads.push_back(exact.rows(l, h));
            assembly.set_exact(l, heads);
        }
    }

    TinyModel& tiny_;
    PrefixKeys keys_;
    PrefixLayout layout_;
    std::unique_ptr<Session> reader_;
    const ExactPrefix* prefix_;
    std::vector<StateRecords> records_;
};

PrefixLayout layout_of(const TinyModel& tiny, int64_t heads_per_key = 1, bool is_shared = false) {
    const MemoryShape s = const_cast<TinyModel&>(tiny).shape();
    return {.n_head = s.n_head,
            .n_head_kv = s.n_head_kv,
            .d_head = s.d_head,
            .heads_per_key = heads_per_key,
            .is_shared = is_shared};
}

Session using_prefix(TinyModel& tiny, const PrefixUse& use, const EvictionOptions& e = {},
                     int64_t n_chunk = 512) {
    return tiny.session(
        make_memory("kv", tiny.backend(), tiny.shape(),
                    {.n_ctx = 190, .entries = GGML_TYPE_F32, .eviction = e, .prefix = use}),
        n_chunk);
}

std::vector<float> full_logits(TinyModel& tiny, const std::vector<TokenId>& trace) {
    Session full = tiny.session();
    return last(all_logits(full, joined(tiny_tokens(kPrefix), trace)), trace.size());
}

TEST(PrefixTrace, SplitAndMergeEqualsOnePass) {
    for (const char* family : {"llama", "gemma3"}) {
        TinyModel tiny({.architecture = family, .n_layer = 3});
        Traced traced(tiny, layout_of(tiny));
        const auto trace = tiny_tokens(20, 2);
        const auto expected = full_logits(tiny, trace);
        EXPECT_LT(max_difference(traced.follow(trace), expected), 2e-5) << family;
        EXPECT_LT(max_difference(traced.follow(trace, 3), expected), 2e-5) << family;
    }
}

class PrefixIdentity : public ::testing::TestWithParam<PrefixLayout> {};

TEST_P(PrefixIdentity, UnclusteredRecordsGiveTheFullPrefixBack) {
    TinyModel tiny({.n_layer = 3}, 2);
    PrefixLayout layout = layout_of(tiny, GetParam().heads_per_key, GetParam().is_shared);
    Traced traced(tiny, layout);
    const auto trace = tiny_tokens(24, 2);
    traced.follow(trace);
    const auto expected = full_logits(tiny, trace);
    const PrefixUse use = {.documents = {traced.document()}};
    // Stored in f16: that, and nothing else, is the difference.
    for (const int64_t n_chunk : {512, 3, 1}) {
        Session session = using_prefix(tiny, use, {}, n_chunk);
        const auto logits = all_logits(session, trace);
        EXPECT_LT(max_difference(logits, expected), 5e-3) << n_chunk;
        EXPECT_EQ(session.position(), 24);
    }
}

INSTANTIATE_TEST_SUITE_P(Layouts, PrefixIdentity,
                         ::testing::Values(PrefixLayout{.heads_per_key = 1},
                                           PrefixLayout{.heads_per_key = 2},
                                           PrefixLayout{.heads_per_key = 1, .is_shared = true},
                                           PrefixLayout{.heads_per_key = 2, .is_shared = true}));

TEST(PrefixMemory, WithoutItTheAnswersAreFarFromTheFullPrefix) {
    TinyModel tiny({.n_layer = 3});
    const auto trace = tiny_tokens(24, 2);
    Session alone = tiny.session();
    EXPECT_GT(max_difference(all_logits(alone, trace), full_logits(tiny, trace)), 0.05);
}

TEST(PrefixMemory, KeysBeforeRotationConfuseEqualTokens) {
    TinyModel tiny({.n_layer = 3});
    Traced traced(tiny, layout_of(tiny), PrefixKeys::kPre);
    auto trace = tiny_tokens(24, 2);
    trace[20] = trace[3];  // at layer 0, the same query at two places
    traced.follow(trace);
    Session session = using_prefix(tiny, {.documents = {traced.document()}});
    const double difference = max_difference(all_logits(session, trace), full_logits(tiny, trace));
    EXPECT_GT(difference, 1e-3);
}

TEST(PrefixMemory, IsTheSameForAnyNumberOfThreads) {
    std::vector<std::vector<float>> all;
    for (const int n_threads : {1, 2, 4}) {
        TinyModel tiny({.n_layer = 3}, n_threads);
        Traced traced(tiny, layout_of(tiny));
        for (uint32_t seed = 2; seed < 6; ++seed) traced.follow(tiny_tokens(30, seed));
        Session session = using_prefix(tiny, {.documents = {traced.document(40)}});
        all.push_back(all_logits(session, tiny_tokens(20, 9)));
    }
    EXPECT_EQ(all[0], all[1]);
    EXPECT_EQ(all[0], all[2]);
}

TEST(PrefixMemory, WorksOnTopOfEvictionAndFillsTheReport) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny));
    for (uint32_t seed = 2; seed < 5; ++seed) traced.follow(tiny_tokens(30, seed));
    const PrefixUse use = {.documents = {traced.document(16, PrefixStorage::kI8, false, 0.999F)}};
    for (const char* residue : {"none", "centroids"}) {
        EvictionOptions e = {.policy = "h2o", .residue = residue};
        e.budget = {.kind = Budget::Kind::kEntries, .count = 24, .share = 0};
        e.n_recent = 4;
        e.interval = 8;
        e.n_chunk = 16;
        Session session = using_prefix(tiny, use, e, 16);
        session.feed(tiny_tokens(150, 7));
        for (const float x : session.logits()) ASSERT_TRUE(std::isfinite(x));
        const MemoryReport::Prefix r = session.memory().report().prefix;
        // The last layer is asked only where logits are wanted: in the last chunk.
        EXPECT_EQ(r.lookups, (150 + 6) * 4);
        int64_t in_histogram = 0;
        for (const int64_t n : r.similarity) in_histogram += n;
        EXPECT_EQ(in_histogram, r.lookups);
        EXPECT_GT(r.below_floor, 0);
        EXPECT_EQ(r.exact, 0);
        EXPECT_GT(r.mean_weight, 0);
        EXPECT_LT(r.mean_weight, 1);
        EXPECT_EQ(r.n_positions, kPrefix);
        EXPECT_GT(r.held_bytes, r.moved_bytes);
    }
}

TEST(PrefixMemory, AByteBudgetHoldsWithIt) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny));
    traced.follow(tiny_tokens(30, 2));
    EvictionOptions e = {.policy = "h2o"};
    e.budget = {.kind = Budget::Kind::kBytes, .count = 400000, .share = 0};
    e.n_recent = 4;
    e.interval = 8;
    e.n_chunk = 16;
    Session session = using_prefix(tiny, {.documents = {traced.document(8)}}, e, 16);
    session.feed(tiny_tokens(180, 7));
    EXPECT_LE(session.memory().report().peak_bytes, 400000U);
}

TEST(PrefixMemory, TheGateReadsTheExactPrefix) {
    TinyModel tiny({.n_layer = 3}, 2);
    Traced traced(tiny, layout_of(tiny));
    traced.follow(tiny_tokens(30, 2));
    const auto asked = tiny_tokens(20, 8);
    const auto expected = full_logits(tiny, asked);
    // A floor that nothing reaches: every query reads the prefix itself.
    const auto document = traced.document(1, PrefixStorage::kF16, true, 1.5F);
    Session gated = using_prefix(tiny, {.documents = {document}, .has_gate = true});
    const double with_gate = max_difference(all_logits(gated, asked), expected);
    EXPECT_LT(with_gate, 1e-2);
    EXPECT_EQ(gated.memory().report().prefix.exact, gated.memory().report().prefix.lookups);
    Session open = using_prefix(tiny, {.documents = {document}});
    EXPECT_GT(max_difference(all_logits(open, asked), expected), 5 * with_gate);
}

TEST(PrefixMemory, TwoEqualDocumentsWeighAsOne) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny));
    traced.follow(tiny_tokens(30, 2));
    const auto d = traced.document(12);
    const auto asked = tiny_tokens(20, 8);
    Session one = using_prefix(tiny, {.documents = {d}});
    Session two = using_prefix(tiny, {.documents = {d, d}});
    EXPECT_LT(max_difference(all_logits(one, asked), all_logits(two, asked)), 1e-4);
}

TEST(PrefixMemory, GoesOnAfterSavingAndResetting) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny));
    traced.follow(tiny_tokens(30, 2));
    const PrefixUse use = {.documents = {traced.document(12)}};
    Session session = using_prefix(tiny, use);
    const auto asked = tiny_tokens(20, 8);
    const auto first = all_logits(session, asked);
    std::stringstream saved;
    session.memory().save(saved);
    auto copy = make_memory("kv", tiny.backend(), tiny.shape(),
                            {.n_ctx = 190, .entries = GGML_TYPE_F32, .prefix = use});
    copy->load(saved);
    Session other = tiny.session(std::move(copy));
    EXPECT_EQ(all_logits(session, tiny_tokens(5, 9)), all_logits(other, tiny_tokens(5, 9)));
    session.reset();
    EXPECT_EQ(all_logits(session, asked), first);
}

TEST(PrefixMemory, SessionsThatPartGoOnAsIfAlone) {
    TinyModel tiny({.n_layer = 2}, 2);
    Traced traced(tiny, layout_of(tiny));
    for (uint32_t seed = 2; seed < 6; ++seed) traced.follow(tiny_tokens(40, seed));
    const PrefixUse use = {.documents = {traced.document(0, PrefixStorage::kI8, false, -2, true)}};
    EvictionOptions evicting = {.policy = "h2o"};
    evicting.budget = {.kind = Budget::Kind::kEntries, .count = 24, .share = 0};
    evicting.n_recent = 4;
    evicting.interval = 8;
    evicting.n_chunk = 16;
    for (const EvictionOptions& e : {EvictionOptions{}, evicting}) {
        const auto memory = [&] {
            return make_memory(
                "kv", tiny.backend(), tiny.shape(),
                {.n_ctx = 190, .entries = GGML_TYPE_F32, .eviction = e, .prefix = use});
        };
        // A request is read once and saved; two copies go different ways, side by side.
        Session first = using_prefix(tiny, use, e, 16);
        first.feed(tiny_tokens(60, 7));
        std::stringstream saved;
        first.memory().save(saved);
        const auto copy = [&] {
            auto m = memory();
            std::stringstream from(saved.str());
            m->load(from);
            return tiny.session(std::move(m), 16);
        };
        const std::vector<std::vector<TokenId>> ways = {tiny_tokens(9, 8), tiny_tokens(9, 9)};
        std::vector<std::vector<float>> alone;
        for (const auto& way : ways) {
            Session session = using_prefix(tiny, use, e, 16);
            session.feed(tiny_tokens(60, 7));
            for (const TokenId t : way) session.accept(t);
            alone.emplace_back(session.logits().begin(), session.logits().end());
        }
        Session one = copy();
        Session other = copy();
        SessionBatch batch(tiny.model(), tiny.backend());
        const std::vector<Session*> both = {&one, &other};
        for (size_t i = 0; i < ways[0].size(); ++i) {
            const std::vector<TokenId> next = {ways[0][i], ways[1][i]};
            batch.accept(both, next);
        }
        EXPECT_LT(max_difference(one.logits(), alone[0]), 1e-5);
        EXPECT_LT(max_difference(other.logits(), alone[1]), 1e-5);
        EXPECT_GT(max_difference(one.logits(), alone[1]), 1e-2);
    }
}

TEST(PrefixMemory, BehindALongRequestNoSlidingLayerLooksUp) {
    TinyModel tiny({.architecture = "gemma3", .n_layer = 4, .window = 8, .window_period = 2});
    Traced traced(tiny, layout_of(tiny));
    traced.follow(tiny_tokens(60, 2));
    for (const bool has_lists : {false, true}) {
        const PrefixUse use = {
            .documents = {traced.document(40, PrefixStorage::kI8, false, -2, has_lists)}};
        Session session = using_prefix(tiny, use);
        const auto lookups = [&] { return session.memory().report().prefix.lookups; };
        // Every position is asked for, so the last layer is too.
        all_logits(session, tiny_tokens(7, 3));
        EXPECT_EQ(lookups(), 7 * 4 * 4);  // its seven positions still see the prefix's last ones
        int64_t before = lookups();
        session.accept(1);
        EXPECT_EQ(lookups() - before, 2 * 4);  // the 8th sees itself and seven others of its own
        before = lookups();
        all_logits(session, tiny_tokens(30, 4));
        EXPECT_EQ(lookups() - before, 30 * 2 * 4);
    }
}

TEST(PrefixTrace, WhereAPrefixStandsDoesNotMatter) {
    for (const char* family : {"llama", "gemma3"}) {
        TinyModel tiny({.architecture = family, .n_layer = 3});
        const auto trace = tiny_tokens(20, 2);
        const auto follow = [&](int64_t first) {
            auto memory = std::make_unique<ExactPrefix>(tiny.backend(), tiny.shape(), GGML_TYPE_F32,
                                                        kPrefix, first);
            const ExactPrefix& prefix = *memory;
            Session reader(tiny.model(), tiny.backend(), std::move(memory));
            reader.feed(tiny_tokens(kPrefix));
            EXPECT_EQ(prefix.next_position(), first + kPrefix);
            Session session(tiny.model(), tiny.backend(),
                            std::make_unique<TraceMemory>(tiny.backend(), prefix, 200,
                                                          PrefixKeys::kPost, nullptr));
            return all_logits(session, trace);
        };
        const auto expected = full_logits(tiny, trace);
        EXPECT_LT(max_difference(follow(0), expected), 2e-5) << family;
        EXPECT_LT(max_difference(follow(33), expected), 1e-3) << family;
        EXPECT_LT(max_difference(follow(-25), expected), 1e-3) << family;
    }
}

TEST(PrefixMemory, ASlidingLayerLooksUpOnlyWhileItsWindowReaches) {
    TinyModel tiny({.architecture = "gemma3", .n_layer = 2, .window = 8, .window_period = 2});
    Traced traced(tiny, layout_of(tiny));
    const auto trace = tiny_tokens(30, 2);
    traced.follow(trace);
    Session session = using_prefix(tiny, {.documents = {traced.document()}});
    EXPECT_LT(max_difference(all_logits(session, trace), full_logits(tiny, trace)), 5e-3);
    const MemoryReport::Prefix r = session.memory().report().prefix;
    EXPECT_EQ(r.lookups, (30 + 7) * 4);
}

TEST(PrefixLookup, InListsGivesTheSameAnswersForAnyChunksAndThreads) {
    std::vector<std::vector<float>> all;
    for (const int n_threads : {1, 3}) {
        TinyModel tiny({.n_layer = 2}, n_threads);
        Traced traced(tiny, layout_of(tiny));
        for (uint32_t seed = 2; seed < 8; ++seed) traced.follow(tiny_tokens(50, seed));
        const auto d = traced.document(0, PrefixStorage::kI8, false, -2, true);
        ASSERT_TRUE(d->has_lists());
        EXPECT_GT(d->lists(0, 0).directions.n, kListsOpened);
        for (const int64_t n_chunk : {512, 3, 1}) {
            Session session = using_prefix(tiny, {.documents = {d}}, {}, n_chunk);
            all.push_back(all_logits(session, tiny_tokens(20, 9)));
            EXPECT_LT(max_difference(all.back(), all.front()), 1e-4) << n_chunk;
        }
        // Lookups that opened other lists would be off by far more.
        Session linear =
            using_prefix(tiny, {.documents = {traced.document(0, PrefixStorage::kI8)}}, {}, 512);
        EXPECT_LT(max_difference(all_logits(linear, tiny_tokens(20, 9)), all.front()), 2e-2);
    }
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(all[i], all[i + 3]);
}

TEST(PrefixLookup, WithFewListsIsTheLinearOne) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny));
    traced.follow(tiny_tokens(30, 2));
    const auto with = traced.document(10, PrefixStorage::kF16, false, -2, true);
    const auto without = traced.document(10);
    EXPECT_LE(with->lists(0, 0).directions.n, kListsOpened);
    Session a = using_prefix(tiny, {.documents = {with}});
    Session b = using_prefix(tiny, {.documents = {without}});
    EXPECT_EQ(all_logits(a, tiny_tokens(20, 9)), all_logits(b, tiny_tokens(20, 9)));
    EXPECT_GT(with->held_bytes(), without->held_bytes());
}

// ---- files

std::string written(const std::shared_ptr<const PrefixDocument>& d) {
    const testing::TemporaryFile file("", ".prefix.gguf");
    const std::vector<std::shared_ptr<const PrefixDocument>> all = {d};
    write_prefixes(file.path(), all);
    return testing::read_text(file.path());
}

TEST(PrefixFile, ReadsBackWhatWasWritten) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny, 2));
    traced.follow(tiny_tokens(30, 2));
    for (const PrefixStorage storage : {PrefixStorage::kF16, PrefixStorage::kI8}) {
        const auto d = traced.document(10, storage, true, 0.5F);
        const testing::TemporaryFile file(written(d), ".prefix.gguf");
        const auto read = read_prefixes(file.path());
        ASSERT_EQ(read.size(), 1U);
        EXPECT_EQ(read.front()->header().tokens, d->header().tokens);
        EXPECT_EQ(read.front()->held_bytes(), d->held_bytes());
        EXPECT_TRUE(read.front()->has_exact());
        EXPECT_EQ(read.front()->floor(1, 0), 0.5F);
        Session a = using_prefix(tiny, {.documents = {d}});
        Session b = using_prefix(tiny, {.documents = read});
        const auto asked = tiny_tokens(20, 8);
        EXPECT_EQ(all_logits(a, asked), all_logits(b, asked));
    }
}

TEST(PrefixFile, KeepsWhitenedKeys) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny, 2));
    for (uint32_t seed = 2; seed < 6; ++seed) traced.follow(tiny_tokens(40, seed));
    for (const bool has_lists : {false, true}) {
        PrefixHeader h = traced.header();
        h.is_whitened = true;
        PrefixAssembly assembly(h, PrefixStorage::kI8);
        for (size_t l = 0; l < 2; ++l) {
            std::vector<Codebook> books;
            std::vector<EntryLists> lists;
            for (size_t c = 0; c < 2; ++c) {
                books.push_back(build_codebook(tiny.backend(), traced.records()[l * 2 + c],
                                               {.k = 30, .whiten = true}));
                if (has_lists) lists.push_back(put_in_lists(tiny.backend(), books.back(), 1));
            }
            assembly.add_layer(books, lists);
        }
        const auto d = std::make_shared<const PrefixDocument>(assembly.document(h));
        const testing::TemporaryFile file(written(d), ".prefix.gguf");
        const auto read = read_prefixes(file.path());
        EXPECT_TRUE(read.front()->header().is_whitened);
        Session a = using_prefix(tiny, {.documents = {d}});
        Session b = using_prefix(tiny, {.documents = read});
        const auto asked = tiny_tokens(20, 8);
        const auto logits = all_logits(a, asked);
        EXPECT_EQ(logits, all_logits(b, asked));
        // A query's cosine is one after whitening: never above 1, and high for what was recorded.
        const MemoryReport::Prefix r = b.memory().report().prefix;
        EXPECT_GT(r.mean_similarity, 0.2);
        const StateRecords& seen = traced.records().front();
        double mean = 0;
        for (size_t i = 0; i < 20; ++i) {
            const auto key = std::span(seen.keys).subspan(i * 32, 32);
            const PrefixEntry found = read.front()->find(0, 0, key);
            EXPECT_LE(found.similarity, 1.0F);
            mean += double{found.similarity} / 20;
        }
        EXPECT_GT(mean, 0.6);
        // Without its whitening the file is no memory.
        std::vector<PrefixLayer> layers = d->layers();
        layers.back().whitening = {};
        EXPECT_THROW(PrefixDocument(h, layers, d), Error);
    }
}

TEST(PrefixFile, KeepsLists) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny));
    for (uint32_t seed = 2; seed < 8; ++seed) traced.follow(tiny_tokens(50, seed));
    const auto d = traced.document(200, PrefixStorage::kI8, false, -2, true);
    const testing::TemporaryFile file(written(d), ".prefix.gguf");
    const auto read = read_prefixes(file.path());
    EXPECT_TRUE(read.front()->has_lists());
    EXPECT_EQ(read.front()->held_bytes(), d->held_bytes());
    EXPECT_LT(read.front()->moved_bytes(), d->held_bytes());
    Session a = using_prefix(tiny, {.documents = {d}});
    Session b = using_prefix(tiny, {.documents = read});
    EXPECT_EQ(all_logits(a, tiny_tokens(20, 8)), all_logits(b, tiny_tokens(20, 8)));
}

/// A document in lists whose first layer lies.
void expect_lists_refused(const std::function<void(PrefixLayer&, std::vector<int32_t>&)>& lie,
                          const std::string& says) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny));
    traced.follow(tiny_tokens(50, 2));
    const auto d = traced.document(60, PrefixStorage::kI8, false, -2, true);
    std::vector<PrefixLayer> layers = d->layers();
    GgufTensor& t = layers.front().list_start;
    const auto* from = reinterpret_cast<const int32_t*>(t.data.data());
    std::vector<int32_t> start(from, from + t.shape[0] * t.shape[1]);
    t.data = std::as_bytes(std::span(start));
    EXPECT_NO_THROW(PrefixDocument(d->header(), layers, d));
    lie(layers.front(), start);
    try {
        const PrefixDocument refused(d->header(), layers, d);
        FAIL() << says;
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kCorrupt);
        EXPECT_NE(std::string(e.what()).find(says), std::string::npos) << e.what();
    }
}

TEST(PrefixFile, ListsThatLieAreRefused) {
    const std::string uncovered = "do not cover";
    // A member past the last entry, before the first, and lists that go back or leave some out.
    expect_lists_refused([](auto& /*l*/, auto& start) { start[1] = 1 << 20; }, uncovered);
    expect_lists_refused([](auto& /*l*/, auto& start) { start[1] = -5; }, uncovered);
    expect_lists_refused([](auto& /*l*/, auto& start) { start[0] = 1; }, uncovered);
    expect_lists_refused([](auto& /*l*/, auto& start) { std::swap(start[1], start[2]); },
                         uncovered);
    expect_lists_refused(
        [](auto& l, auto& start) { start[size_t(l.list_start.shape[0]) - 1] -= 1; }, uncovered);
    expect_lists_refused([](auto& l, auto& /*start*/) { l.list_keys = {}; }, "half of its lists");
    expect_lists_refused([](auto& l, auto& /*start*/) { l.list_start = {}; }, "list");
    expect_lists_refused([](auto& l, auto& /*start*/) { l.list_start.shape[0] -= 1; }, "list");
    expect_lists_refused([](auto& l, auto& /*start*/) { l.list_keys = l.list_start = {}; },
                         "not all layers");
}

TEST(PrefixFile, PiecesThatLieAreRefused) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny));
    traced.follow(tiny_tokens(30, 2));
    const auto whole = traced.document(10);
    const auto exact = traced.document(10, PrefixStorage::kF16, true);
    const auto made = [&](const PrefixDocument& d, int64_t n_chunks, int64_t end) {
        PrefixHeader h = d.header();
        h.n_chunks = n_chunks;
        h.chunks_end = end;
        return PrefixDocument(h, d.layers(), whole).n_positions();
    };
    EXPECT_EQ(made(*whole, 2, 40), 40);
    EXPECT_EQ(made(*whole, 1, 40), kPrefix);  // a whole one ends where it ends
    EXPECT_THROW(made(*whole, 0, 40), Error);
    EXPECT_THROW(made(*whole, 2, 0), Error);
    EXPECT_THROW(made(*whole, 2, int64_t{1} << 40), Error);
    EXPECT_THROW(made(*exact, 2, 40), Error);
}

TEST(PrefixFile, ADamagedFileIsRefused) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny));
    traced.follow(tiny_tokens(30, 2));
    const std::string whole = written(traced.document(10, PrefixStorage::kI8));
    const auto refused = [](const std::string& bytes) {
        const testing::TemporaryFile file(bytes, ".prefix.gguf");
        try {
            read_prefixes(file.path());
        } catch (const Error& e) {
            return e.code() == ErrorCode::kCorrupt || e.code() == ErrorCode::kUnsupported;
        }
        return false;
    };
    EXPECT_FALSE(refused(whole));
    for (size_t n = 64; n < whole.size(); n += whole.size() / 40) {
        EXPECT_TRUE(refused(whole.substr(0, whole.size() - n))) << "without the last " << n;
    }
    // Bytes that say nothing (padding, names that nobody looks for) may change; those that do not,
    // may not.
    int64_t passed = 0;
    int64_t tried = 0;
    for (size_t at = 0; at < whole.size(); at += 97) {
        std::string bytes = whole;
        bytes[at] = static_cast<char>(bytes[at] ^ 0x10);
        ++tried;
        passed += refused(bytes) ? 0 : 1;
    }
    EXPECT_LT(passed * 20, tried);
}

TEST(PrefixFile, AnotherModelIsRefusedByName) {
    const testing::TemporaryFile one = testing::tiny_model_file({.seed = 1});
    const testing::TemporaryFile other = testing::tiny_model_file({.seed = 2});
    PrefixHeader h;
    h.name = "rules";
    const GgufFile file = GgufFile::open(one.path());
    set_hashes(h, file);
    EXPECT_NO_THROW(check_made_for(h, file));
    try {
        check_made_for(h, GgufFile::open(other.path()));
        FAIL() << "another model passed";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
        EXPECT_NE(std::string(e.what()).find("model, or its quantisation"), std::string::npos);
        EXPECT_NE(std::string(e.what()).find("rules"), std::string::npos);
    }
}

TEST(PrefixMemory, OneForOtherHeadsIsRefused) {
    TinyModel tiny({.n_layer = 2});
    Traced traced(tiny, layout_of(tiny));
    traced.follow(tiny_tokens(30, 2));
    TinyModel wider({.n_layer = 3});
    EXPECT_THROW(using_prefix(wider, {.documents = {traced.document(4)}}), Error);
}

}  // namespace
}  // namespace palimpsest
