// From traces to a memory: what is read, what is refused, and that nothing is lost on the way.

#include "prefix/prefix_build.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "memory/cache/kv_cache.h"
#include "memory/prefix/prefix_file.h"
#include "prefix/prefix_records.h"
#include "support/golden.h"
#include "support/task_files.h"
#include "support/tiny_build.h"

namespace palimpsest {
namespace {

namespace fs = std::filesystem;

using testing::code_of;
using testing::TinyBuild;
using testing::TinyGemmaBuild;

TEST(PrefixTraces, AreReadLineByLine) {
    const auto traces = parse_traces(
        "{\"prompt\": \"a\", \"response\": \"b\"}\n\n{\"response\": \"\", \"prompt\": \"c\", "
        "\"x\": 1}");
    ASSERT_EQ(traces.size(), 2U);
    EXPECT_EQ(traces[0].response, "b");
    EXPECT_EQ(traces[1].prompt, "c");
    EXPECT_EQ(parse_traces(to_json_line(traces[0])).front().prompt, "a");
}

TEST(PrefixTraces, WhatIsNoneIsRefused) {
    EXPECT_EQ(code_of([] { parse_traces(""); }), ErrorCode::kInvalidArgument);
    EXPECT_EQ(code_of([] { parse_traces("[1]\n"); }), ErrorCode::kCorrupt);
    EXPECT_EQ(code_of([] { parse_traces("{\"prompt\": \"a\"}\n"); }), ErrorCode::kCorrupt);
    EXPECT_EQ(code_of([] { parse_traces("{\"prompt\": 1, \"response\": \"a\"}\n"); }),
              ErrorCode::kCorrupt);
    EXPECT_EQ(code_of([] { parse_traces("{\"prompt\": \"a\""); }), ErrorCode::kCorrupt);
}

TEST(PrefixErrors, AShareHasWilsonsInterval) {
    const ShareInterval i = wilson(81, 263);  // a textbook's: 0.2553 to 0.3662
    EXPECT_NEAR(i.low, 0.2553, 5e-4);
    EXPECT_NEAR(i.high, 0.3662, 5e-4);
    EXPECT_EQ(wilson(0, 0).high, 1);
}

TEST(PrefixCheck, PairsThatDifferAreTestedExactly) {
    EXPECT_NEAR(mcnemar(1, 9), 22.0 / 1024, 1e-12);  // twice (1 + 10) of 2^10
    EXPECT_EQ(mcnemar(9, 1), mcnemar(1, 9));
    EXPECT_EQ(mcnemar(0, 0), 1);
    EXPECT_EQ(mcnemar(5, 5), 1);
    EXPECT_NEAR(mcnemar(0, 2000), 0, 1e-300);
}

MemoryShape small_shape() {
    MemoryShape shape;
    shape.n_layer = 2;
    shape.n_head = 4;
    shape.n_head_kv = 2;
    shape.d_head = 8;
    return shape;
}

std::vector<TracedLayer> traced(int64_t n, float first) {
    std::vector<TracedLayer> layers(2);
    for (TracedLayer& l : layers) {
        const auto rows = static_cast<size_t>(n * small_shape().n_head);
        l.keys.resize(rows * 8);
        l.outputs.resize(rows * 8);
        l.lse.resize(rows);
        for (size_t i = 0; i < l.keys.size(); ++i) {
            l.keys[i] = first + 0.25F * static_cast<float>(i % 64);
            l.outputs[i] = -l.keys[i];
        }
        for (size_t i = 0; i < rows; ++i) l.lse[i] = first + static_cast<float>(i);
    }
    return layers;
}

class PrefixRecordsTest : public ::testing::Test {
 protected:
    [[nodiscard]] PrefixRecords open(const std::string& purpose = "p") const {
        return {records_folder, purpose, small_shape(), {2, 3, 1}};
    }

    testing::TemporaryFolder temporary;
    fs::path records_folder = fs::path(temporary.path()) / "records";
};

TEST_F(PrefixRecordsTest, GoOnWhereTheyStopped) {
    PrefixRecords first = open();
    EXPECT_EQ(first.n_done(), 0);
    first.add(traced(2, 1));
    first.add(traced(3, 2));
    PrefixRecords again = open();
    EXPECT_EQ(again.n_done(), 2);
    // A layer that was cut short takes its trace away from all of them.
    fs::resize_file(records_folder / "layer_1.records",
                    fs::file_size(records_folder / "layer_1.records") - 1);
    PrefixRecords cut = open();
    EXPECT_EQ(cut.n_done(), 1);
    cut.add(traced(3, 2));
    cut.add(traced(1, 3));
    EXPECT_EQ(open().n_done(), 3);
    EXPECT_EQ(open("another prefix").n_done(), 0);
}

TEST_F(PrefixRecordsTest, ComeBackDividedByLayout) {
    PrefixRecords records = open();
    records.add(traced(2, 1));
    records.add(traced(3, 2));
    const auto layers = traced(3, 2);
    for (const bool is_shared : {false, true}) {
        for (const int64_t per_key : {1, 2}) {
            const PrefixLayout at = {.n_head = 4,
                                     .n_head_kv = 2,
                                     .d_head = 8,
                                     .heads_per_key = per_key,
                                     .is_shared = is_shared};
            for (int64_t c = 0; c < at.n_codebooks(); ++c) {
                const StateRecords r = records.read(1, at, c);
                ASSERT_EQ(r.size(), 5 * at.rows());
                // Position 2 of the second trace, its last row, its last block.
                const int64_t row = 4 * at.rows() + at.rows() - 1;
                const int64_t b = at.blocks() - 1;
                const int64_t h = at.head(c, at.rows() - 1, b);
                const auto from = static_cast<size_t>((8 + h) * 8);
                const auto to = static_cast<size_t>((row * at.blocks() + b) * 8);
                EXPECT_EQ(r.keys[to + 3], layers[1].keys[from + 3]);
                EXPECT_EQ(r.outputs[to + 7], layers[1].outputs[from + 7]);
                EXPECT_EQ(r.lse[to / 8], layers[1].lse[from / 8]);
            }
        }
    }
}

TEST_F(PrefixRecordsTest, ALongTraceComesInParts) {
    const PrefixLayout at = {.n_head = 4, .n_head_kv = 2, .d_head = 8};
    const std::vector<int64_t> lengths = {300, 2};
    PrefixRecords records(records_folder, "p", small_shape(), lengths);
    records.add(traced(256, 1));
    EXPECT_EQ(records.n_done(), 0);
    EXPECT_EQ(PrefixRecords(records_folder, "p", small_shape(), lengths).n_done(), 0);
    PrefixRecords again(records_folder, "p", small_shape(), lengths);  // from its beginning
    again.add(traced(256, 1));
    again.add(traced(44, 2));
    again.add(traced(2, 3));
    EXPECT_EQ(again.n_done(), 2);
    const StateRecords r = again.read(1, at, 0);
    ASSERT_EQ(r.size(), 302 * at.rows());
    const auto second = static_cast<size_t>(256 * at.rows());
    EXPECT_EQ(r.lse[second], traced(44, 2)[1].lse[0]);
    EXPECT_EQ(r.keys[second * 8 + 3], traced(44, 2)[1].keys[3]);
}

TEST_F(TinyBuild, ALongTraceIsFollowedToItsEnd) {
    const PrefixText text = text_of(rules(3));
    std::string prompt = "Which rules are there?";
    while (text.trace({prompt, "Three."}).tokens.size() < 270) prompt += " And what do they say?";
    std::vector<TraceText> traces = requests(7);
    traces.insert(traces.begin(), {prompt, "Three."});
    PrefixBuildOptions o = {.name = "rules", .k = 4, .kept_share = 0.0, .n_held_out = 1};
    o.is_forced = true;
    const testing::TemporaryFolder folder;
    o.work_folder = folder.path();
    const PrefixBuild b = build_prefix(with(), text, traces, o);
    EXPECT_EQ(b.document->header().n_traces, 7);
    EXPECT_GE(b.document->header().n_trace_tokens, 270);
    // Whoever was held out, twice the same is once there.
    traces.push_back(traces.front());
    EXPECT_EQ(build_prefix(with(), text, traces, o).n_repeated, 1);
}

TEST_F(PrefixRecordsTest, AValueThatIsNotFiniteIsRefused) {
    PrefixRecords records = open();
    auto layers = traced(2, 1);
    layers[1].outputs[5] = std::nanf("");
    EXPECT_THROW(records.add(layers), Error);
}

TEST_F(TinyBuild, PiecesOfATextAreTheText) {
    const std::string text = rules(30);
    for (const int64_t n : {2, 3, 7}) {
        std::string all;
        for (const PrefixText& piece : text_of(text).pieces(n)) {
            EXPECT_TRUE(piece.text().starts_with("Rule")) << "a line was cut";
            EXPECT_TRUE(piece.is_raw());
            EXPECT_LT(piece.text().size(), text.size() * 3 / 2 / static_cast<size_t>(n));
            all += piece.text();
        }
        EXPECT_EQ(all, text);
    }
    // Nothing to cut at but characters: none is cut.
    std::string dots;
    for (int i = 0; i < 50; ++i) dots += "\xE2\x80\xA2";
    std::string all;
    for (const PrefixText& piece : text_of(dots).pieces(4)) {
        EXPECT_EQ(piece.text().size() % 3, 0U);
        all += piece.text();
    }
    EXPECT_EQ(all, dots);
    EXPECT_EQ(code_of([&] { (void)text_of("short").pieces(6); }), ErrorCode::kInvalidArgument);
}

TEST_F(TinyBuild, APrefixBeyondTheWindowIsReadInPieces) {
    const PrefixText text = text_of(rules(30), false);
    ASSERT_GT(std::ssize(text.tokens()), 400);
    try {
        build(text, {.k = 8});
        FAIL() << "longer than the window";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
        EXPECT_NE(std::string(e.what()).find("--chunks 3"), std::string::npos) << e.what();
    }
    const PrefixBuild built = build(text, {.k = 40, .n_chunks = 4});
    const PrefixHeader& h = built.document->header();
    EXPECT_EQ(h.n_chunks, 4);
    EXPECT_EQ(h.tokens, text.tokens());
    const PrefixPieces pieces(with(), text, 4);
    EXPECT_EQ(built.document->n_positions(), pieces.end());
    EXPECT_LT(pieces.end(), 250);
    EXPECT_EQ(built.n_records, 4 * h.n_trace_tokens * 2);
    EXPECT_EQ(built.errors.n_pieces, 4);
    EXPECT_NE(errors_for_people(built.errors, "").find("each of its 4 pieces"), std::string::npos);
    // It survives its file, and a request starts behind the longest piece.
    const testing::TemporaryFile file("", ".prefix.gguf");
    const std::vector<std::shared_ptr<const PrefixDocument>> all = {built.document};
    write_prefixes(file.path(), all);
    const auto read = read_prefixes(file.path()).front();
    EXPECT_EQ(read->n_positions(), pieces.end());
    EXPECT_TRUE(read->header().is_against_pieces);
    EXPECT_EQ(read->n_tokens(), std::ssize(text.tokens()));
    const auto request = request_after(*read, loaded.require_tokenizer(), {{"What?"}});
    KvCacheOptions options = {.n_ctx = 100};
    options.prefix.documents = {read};
    Session session(loaded.model(), backend,
                    std::make_unique<KvCache>(backend, loaded.config().memory_shape(), options));
    EXPECT_EQ(session.memory().next_position(), pieces.end());
    session.feed(request);
    for (const float x : session.logits()) ASSERT_TRUE(std::isfinite(x));
    EXPECT_EQ(session.memory().report().prefix.n_positions, std::ssize(text.tokens()));
    // The gate would need the prefix as a whole.
    EXPECT_EQ(code_of([&] { build(text, {.k = 8, .n_chunks = 4, .keep_exact = true}); }),
              ErrorCode::kInvalidArgument);
}

/// One entry a dictionary: its logarithm, over all layers, dictionaries and heads.
std::vector<float> mean_lse(const PrefixDocument& d) {
    std::vector<float> all;
    std::vector<float> out(static_cast<size_t>(d.header().layout.d_head));
    for (int64_t l = 0; l < d.header().n_layer; ++l) {
        for (int64_t c = 0; c < d.header().layout.n_codebooks(); ++c) {
            for (int64_t b = 0; b < d.header().layout.blocks(); ++b) {
                all.push_back(d.state(l, c, 0, b, out));
            }
        }
    }
    return all;
}

TEST_F(TinyBuild, PiecesArePooledByTheirMean) {
    const PrefixText text = text_of(rules(12));
    const auto pieces = text.pieces(2);
    const auto one = mean_lse(*build(pieces[0], {.k = 1}).document);
    const auto other = mean_lse(*build(pieces[1], {.k = 1}).document);
    const auto both = mean_lse(*build(text, {.k = 1, .n_chunks = 2}).document);
    ASSERT_EQ(one.size(), both.size());
    for (size_t i = 0; i < both.size(); ++i) {
        EXPECT_NEAR(both[i], std::log((std::exp(one[i]) + std::exp(other[i])) / 2), 5e-3);
    }
}

TEST_F(TinyBuild, PiecesOfAShortPrefixAreCheckedAgainstTheWhole) {
    const PrefixText text = text_of(rules(10));
    for (const PrefixKeys keys : {PrefixKeys::kPre, PrefixKeys::kPost}) {
        const PrefixBuild apart = build(text, {.keys = keys, .k = 200, .n_chunks = 2});
        const PrefixBuild whole = build(text, {.keys = keys, .k = 200});
        EXPECT_EQ(apart.errors.n_pieces, 1);
        EXPECT_FALSE(apart.document->header().is_against_pieces);
        EXPECT_LT(whole.errors.e_out, apart.errors.e_out);
        EXPECT_LT(apart.errors.e_out, 1);
    }
}

TEST_F(TinyBuild, ThreadsDoNotChangeABit) {
    const PrefixText text = text_of(rules(8));
    std::vector<std::string> written;
    for (const auto& [n_threads, kept] : {std::pair(1, 0.0), {3, 0.0}, {1, 0.5}, {3, 0.5}}) {
        Backend its_backend(n_threads);
        const LoadedModel its_model(model_file.path(), its_backend);
        const testing::TemporaryFolder folder;
        PrefixBuildOptions o = {.name = "rules",
                                .whiten = true,
                                .k = 30,
                                .kept_share = kept,
                                .n_chunks = kept > 0 ? 1 : 2,
                                .is_forced = true,
                                .lookup = PrefixLookup::kTwoLevel,
                                .work_folder = folder.path()};
        const PrefixBuild built =
            build_prefix({.engine = Runtime(its_model, its_backend)}, text, requests(16), o);
        const testing::TemporaryFile file("", ".prefix.gguf");
        const std::vector<std::shared_ptr<const PrefixDocument>> all = {built.document};
        write_prefixes(file.path(), all);
        written.push_back(testing::read_text(file.path()));
    }
    EXPECT_EQ(written[0], written[1]);
    EXPECT_EQ(written[2], written[3]);
}

TEST_F(TinyBuild, LooksUpAsAsked) {
    const PrefixText text = text_of(rules(8));
    EXPECT_FALSE(build(text, {.k = 30}).document->has_lists());
    EXPECT_TRUE(build(text, {.k = 30, .lookup = PrefixLookup::kTwoLevel}).document->has_lists());
    // Lists are part of what a budget holds.
    const size_t budget = 16000;
    const PrefixBuild b = build(text, {.budget_bytes = budget, .lookup = PrefixLookup::kTwoLevel});
    EXPECT_LE(b.document->held_bytes(), budget);
    EXPECT_GT(b.document->held_bytes(), budget / 2);
}

TEST_F(TinyGemmaBuild, IsCheckedWhereItsWindowsReach) {
    const PrefixText text = text_of(rules(8));
    const PrefixBuild built = build(text, {.k = 300});
    EXPECT_LT(built.errors.e_out, 0.5);
    EXPECT_GT(built.errors.memory.share(), built.errors.no_prefix.share() - 0.2);
    for (const PrefixLayerErrors& l : built.errors.layers) EXPECT_TRUE(std::isfinite(l.e_out));
    const PrefixBuild apart = build(text, {.k = 300, .n_chunks = 2});
    // Where a window has left the prefix nothing is looked up, so nothing is wrong: layers that
    // slide have less error than those that do not.
    EXPECT_LT(apart.errors.layers[0].e_out, 0.5);
}

/// Few demonstrations and many traces of one small task.
TEST(RealPrefixBuild, SaysWhatTheFullPrefixSays) {
    REQUIRE_MODEL();
    Backend backend(1);
    const LoadedModel loaded(*model_path, backend);
    const Tokenizer& tokenizer = loaded.require_tokenizer();
    std::string prefix;
    std::vector<TraceText> traces;
    const std::vector<std::string> names = {"Anna", "Boris", "Clara", "David", "Elena", "Felix"};
    for (int i = 0; i < 72; ++i) {
        const std::string& name = names[static_cast<size_t>(i % 6)];
        const bool pays = i % 2 == 0;
        const std::string prompt = cat("Text: ", pays ? "pay " : "wake ", name, pays ? " " : " at ",
                                       i + 3, pays ? " euros" : " on Monday", "\nLabel:");
        const std::string label = pays ? " horse\n\n" : " cloud\n\n";
        if (i < 12) {
            prefix += prompt + label;
        } else {
            traces.push_back({prompt, label});
        }
    }
    const PrefixText text(tokenizer, prefix, true);
    const Runtime engine(loaded, backend);
    const PrefixRuntime with = {.engine = engine};
    PrefixBuildOptions o;
    o.name = "real";
    o.k = 96;
    o.is_forced = true;
    const testing::TemporaryFolder temporary;
    o.work_folder = temporary.path();
    const PrefixBuild built = build_prefix(with, text, traces, o);
    EXPECT_GT(built.errors.memory.share(), 0.8);
    EXPECT_GT(built.errors.memory.share(), built.errors.no_prefix.share());
    EXPECT_LT(built.errors.e_out, 0.2);
    EXPECT_LT(built.errors.memory.divergence, built.errors.mean_state.divergence);
    EXPECT_NO_THROW(check_made_for(built.document->header(), loaded.file()));
    // A request behind it starts where the prefix ended.
    EXPECT_FALSE(request_after(*built.document, tokenizer, {{"Text: pay Zoe"}}).empty());
    // More entries than an eighth of the records are refused, unless forced.
    o.k = 4096;
    o.is_forced = false;
    EXPECT_EQ(code_of([&] { build_prefix(with, text, traces, o); }), ErrorCode::kInvalidArgument);
}

TEST(RealPrefixBuild, TracesThatRepeatThePrefixAreLeftOut) {
    REQUIRE_MODEL();
    Backend backend(1);
    const LoadedModel loaded(*model_path, backend);
    const PrefixText text(loaded.require_tokenizer(), "Rule one: nobody may whistle here.\n", true);
    PrefixBuildOptions o;
    const testing::TemporaryFolder temporary;
    o.work_folder = temporary.path();
    const std::vector<TraceText> traces = {{"Rule one: nobody may whistle", " here."},
                                           {"  ", "nothing"},
                                           {"What is rule one?", " No."},
                                           {"What is rule one?", " No."}};
    try {
        build_prefix({.engine = Runtime(loaded, backend)}, text, traces, o);
        FAIL() << "one trace is left";
    } catch (const Error& e) {
        const std::string says = e.what();
        EXPECT_NE(says.find("(1 repeat the prefix, 1 are empty, 1 repeat another, 0 do not fit"),
                  std::string::npos)
            << says;
    }
}

TEST(RealPrefixText, AChatGoesOnAfterThePrefix) {
    REQUIRE_MODEL();
    Backend backend(1);
    const LoadedModel loaded(*model_path, backend);
    const Tokenizer& tokenizer = loaded.require_tokenizer();
    const PrefixText text(tokenizer, "Always answer in one word.", false);
    std::vector<TokenId> joined = text.tokens();
    for (const Segment& s : text.request({{"What is red?"}})) {
        joined.insert(joined.end(), s.tokens.begin(), s.tokens.end());
    }
    std::vector<TokenId> whole;
    for (const Segment& s : tokenizer.encode_chat(std::vector<ChatMessage>{
             {"system", {{"Always answer in one word."}}}, {"user", {{"What is red?"}}}})) {
        whole.insert(whole.end(), s.tokens.begin(), s.tokens.end());
    }
    EXPECT_EQ(joined, whole);
    EXPECT_THROW(PrefixText(tokenizer, " \n", false), Error);
}

/// Traces of few rows beside traces of many, which are computed apart.
class TracesOfAllLengths : public testing::TinyBuild {};

TEST_F(TracesOfAllLengths, AreRecordedInOrder) {
    const int64_t many = loaded.products().many_rows();
    ASSERT_LT(many, 64);
    std::vector<TraceText> traces;
    for (int i = 0; i < 16; ++i) {
        traces.push_back(
            {i % 2 == 0 ? cat("Rule ", i) : cat("What does rule ", i, " say of rooms?"), "Pay."});
    }
    const PrefixText text = text_of(rules(4));
    int64_t n_few = 0;
    for (const TraceText& t : traces) n_few += std::ssize(text.trace(t).tokens) < many ? 1 : 0;
    ASSERT_GT(n_few, 0);
    ASSERT_LT(n_few, 16);
    const testing::TemporaryFolder folder;
    PrefixBuildOptions o;
    o.name = "rules";
    o.is_forced = true;
    o.work_folder = folder.path();
    const PrefixBuild built = build_prefix(with(), text, traces, o);
    EXPECT_GT(built.document->header().n_traces, 0);
}

}  // namespace
}  // namespace palimpsest
