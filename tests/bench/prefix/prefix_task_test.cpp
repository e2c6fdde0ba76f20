// Generated prefix tasks, and results of what stands for their prefix.

#include "bench/prefix/prefix_task.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "bench/prefix/prefix_demo.h"
#include "bench/quality/quality_result.h"
#include "bench/report/report_html.h"
#include "bench/report/report_markdown.h"
#include "core/error.h"
#include "core/numbers.h"
#include "engine/default_model.h"
#include "model/load.h"
#include "support/golden.h"

namespace palimpsest {
namespace {

/// Labels must be single tokens, so a real vocabulary it is.
std::unique_ptr<Tokenizer> real_tokenizer() {
    const std::string path = default_model_path();
    if (!std::filesystem::exists(path)) return nullptr;
    return Tokenizer::load(path, GgufFile::open(path));
}

class RealPrefixTasks : public ::testing::TestWithParam<std::string> {
 protected:
    void SetUp() override {
        tokenizer = real_tokenizer();
        if (tokenizer == nullptr) GTEST_SKIP() << "no model at " << default_model_path();
    }
    [[nodiscard]] PrefixTask make(const PrefixTaskOptions& o) const {
        return make_prefix_task(*tokenizer, o);
    }
    static PrefixTaskOptions options() {
        return {
            .name = GetParam(), .seed = 3, .n_prefix_tokens = 2000, .n_traces = 60, .n_tests = 40};
    }
    std::unique_ptr<Tokenizer> tokenizer;
};

TEST_P(RealPrefixTasks, ShareNoPromptAndFit) {
    const PrefixTaskOptions o = options();
    const PrefixTask task = make(o);
    const std::string prefix = task.prefix();
    const auto n = std::ssize(PrefixText(*tokenizer, prefix, true).tokens());
    EXPECT_LE(n, o.n_prefix_tokens);
    EXPECT_GE(n, o.n_prefix_tokens - 30);
    EXPECT_EQ(std::ssize(task.traces), o.n_traces);
    EXPECT_EQ(std::ssize(task.tests), o.n_tests);
    std::set<std::string> prompts;
    for (const TraceText& t : task.traces) prompts.insert(t.prompt);
    EXPECT_EQ(std::ssize(prompts), o.n_traces);
    EXPECT_EQ(std::ssize(task.validation), o.n_tests);
    for (const auto* asked : {&task.tests, &task.validation}) {
        for (const PrefixTask::Item& t : *asked) {
            EXPECT_TRUE(prompts.insert(t.prompt).second) << t.prompt;
            EXPECT_TRUE(t.is_traced);
        }
    }
    for (const std::string& p : prompts) EXPECT_EQ(prefix.find(p), std::string::npos) << p;
    EXPECT_EQ(std::set(task.labels.begin(), task.labels.end()).size(), task.labels.size());
}

TEST_P(RealPrefixTasks, AreTheSameForASeedAndOthersForAnother) {
    PrefixTaskOptions o = options();
    const PrefixTask task = make(o);
    EXPECT_EQ(make(o).prefix(), task.prefix());
    o.seed = 4;
    EXPECT_NE(make(o).prefix(), task.prefix());
}

/// The control differs in what the prefix says of labels, and in nothing else.
TEST_P(RealPrefixTasks, ShuffledLabelsLeaveTracesAndTests) {
    PrefixTaskOptions o = options();
    const PrefixTask task = make(o);
    o.is_shuffled = true;
    const PrefixTask wrong = make(o);
    EXPECT_NE(wrong.prefix(), task.prefix());
    EXPECT_EQ(wrong.labels, task.labels);
    for (size_t i = 0; i < task.traces.size(); ++i) {
        EXPECT_EQ(wrong.traces[i].prompt, task.traces[i].prompt);
        EXPECT_EQ(wrong.traces[i].response, task.traces[i].response);
    }
    for (size_t i = 0; i < task.tests.size(); ++i) {
        EXPECT_EQ(wrong.tests[i].prompt, task.tests[i].prompt);
        EXPECT_EQ(wrong.tests[i].label, task.tests[i].label);
    }
}

TEST_P(RealPrefixTasks, TracesCoverAPart) {
    PrefixTaskOptions o = options();
    o.traced = 0.5;
    const PrefixTask task = make(o);
    const auto n = std::ranges::count_if(task.tests, &PrefixTask::Item::is_traced);
    EXPECT_GT(n, 5);
    EXPECT_LT(n, 35);
    std::set<std::string> traced;
    for (const TraceText& t : task.traces) traced.insert(t.response);
    EXPECT_LE(traced.size(), size_t{12});
    o.traced = 0;
    EXPECT_THROW(make(o), Error);
}

INSTANTIATE_TEST_SUITE_P(All, RealPrefixTasks, ::testing::ValuesIn(prefix_task_names()),
                         [](const auto& of) { return of.param; });

TEST(RealPrefixTask, UnknownNamesAndHopelessLengthsAreRefused) {
    const auto tokenizer = real_tokenizer();
    if (tokenizer == nullptr) GTEST_SKIP() << "no model at " << default_model_path();
    EXPECT_THROW(make_prefix_task(*tokenizer, {.name = "riddles"}), Error);
    EXPECT_THROW(make_prefix_task(*tokenizer, {.n_prefix_tokens = 3}), Error);
    EXPECT_THROW(make_prefix_task(*tokenizer, {.name = "rules", .n_prefix_tokens = 64}), Error);
}

PrefixResult some_result(const std::string& method, double share) {
    return {.task = "intents",
            .model = "a.gguf",
            .length = 100,
            .n_traces = 10,
            .n_tests = 20,
            .seed = 1,
            .method = method,
            .share = share,
            .size = 25,
            .n_prefix = 100,
            .full_bytes = 1000,
            .held_bytes = static_cast<uint64_t>(1000 * share),
            .moved_bytes = 100,
            .n = 20,
            .n_right = 5,
            .n_same = 15,
            .commit = "c"};
}

TEST(PrefixResult, ComesBackFromItsLine) {
    PrefixResult r = some_result("memory", 0.25);
    r.e_out = 0.125;
    r.e_out_by_layer = {0.1, 0.15};
    const std::string line = to_json_line(r);
    size_t whole = 0;
    const std::string text = line + "\n" + line.substr(0, 20);
    const auto read = read_prefix_results(text, "f", &whole);
    ASSERT_EQ(read.size(), 1U);
    EXPECT_EQ(whole, line.size() + 1);
    EXPECT_EQ(to_json_line(read[0]), line);
    EXPECT_EQ(read[0].key(), r.key());
    r.n_right = 6;  // what came of it is no part of the question
    EXPECT_EQ(read[0].key(), r.key());
    r.share = 0.5;
    EXPECT_NE(read[0].key(), r.key());
    r.share = 0.25;
    r.is_validation = true;
    r.e_state_by_layer = {0.5};
    r.e_lse_by_layer = {0.25, 0.125};
    EXPECT_NE(read[0].key(), r.key());
    const auto again = read_prefix_results(to_json_line(r) + "\n", "f");
    EXPECT_EQ(again[0].key(), r.key());
    EXPECT_EQ(to_json_line(again[0]), to_json_line(r));
    EXPECT_TRUE(read_quality_results(line + "\n", "f").empty());
}

TEST(PrefixResult, DamagedLinesAreRefusedWithTheirNumber) {
    const std::string line = to_json_line(some_result("full", 0));
    std::string wrong = line;
    wrong.replace(wrong.find("\"n_right\":5"), 11, "\"n_right\":50");
    std::string lacking = line;
    lacking.replace(lacking.find("\"seed\""), 6, "\"sead\"");
    std::string later = line;
    later.replace(later.find("\"version\":1"), 11, "\"version\":9");
    // Found by fuzzing: beyond all whole numbers.
    std::string beyond = line;
    beyond.replace(beyond.find("\"n_right\":5"), 11, "\"n_right\":7e68");
    for (const std::string& bad : {wrong, lacking, later, beyond}) {
        try {
            read_prefix_results(cat(line, "\n", bad, "\n"), "f");
            FAIL() << bad;
        } catch (const Error& e) {
            EXPECT_NE(std::string(e.what()).find("line 2"), std::string::npos) << e.what();
        }
    }
}

TEST(PrefixResult, ReportPoolsSeedsAndDrawsBothKindsOfBytes) {
    std::vector<PrefixResult> results = {some_result("full", 0)};
    results[0].held_bytes = results[0].moved_bytes = 1000;
    for (const double share : {0.125, 0.25}) {
        for (const uint64_t seed : {uint64_t{1}, uint64_t{2}}) {
            for (const char* method : {"memory", "truncated"}) {
                results.push_back(some_result(method, share));
                results.back().seed = seed;
                if (method == std::string("memory")) results.back().e_out = 0.05;
            }
        }
    }
    const ReportDocument document = make_report(summarize({}), {.prefixes = results}, "t");
    const std::string text = report_markdown(document);
    EXPECT_NE(text.find("### intents, 100 tokens"), std::string::npos) << text;
    EXPECT_NE(text.find("| truncated prefix | 25 | 12.5 % | 10.0 % | 25.0 (14.2 to 40.2)"),
              std::string::npos)
        << text;
    EXPECT_NE(text.find("40 (2)"), std::string::npos) << text;
    const std::string page = report_html(document);
    for (const char* title : {"against bytes held", "against bytes moved", "E_out against"}) {
        EXPECT_NE(page.find(title), std::string::npos) << title;
    }
    EXPECT_EQ(page.find("E_a by layer"), std::string::npos);
    results.back().e_state_by_layer = {0.1, 0.2};
    results.back().method = "memory";
    results.push_back(some_result("memory", 0.25));
    results.back().is_validation = true;
    results.back().e_lse_by_layer = {0.1, 0.2};
    const ReportDocument both = make_report(summarize({}), {.prefixes = results}, "t");
    const std::string pages = report_html(both);
    for (const char* title : {"intents, 100 tokens, validation", "E_a by layer", "E_l, nats, by"}) {
        EXPECT_NE(pages.find(title), std::string::npos) << title;
    }
}

/// Clusterings of one seed are asked the same questions, which are not more for that.
TEST(PrefixResult, ReportCountsASeedOnceHoweverOftenItWasClustered) {
    std::vector<PrefixResult> results;
    for (const uint64_t clustering : {1U, 2U, 3U}) {
        results.push_back(some_result("memory", 0.25));
        results.back().cluster_seed = clustering;
        results.back().n_right = static_cast<int64_t>(clustering) * 4;  // 4, 8 and 12 of 20
    }
    results.push_back(some_result("memory", 0.25));
    results.back().seed = 2;
    results.back().cluster_seed = 1;
    results.back().n_right = 10;
    const std::string text =
        report_markdown(make_report(summarize({}), {.prefixes = results}, "t"));
    const ShareInterval i = wilson(18, 40);
    EXPECT_NE(text.find(cat("45.0 (", fixed(100 * i.low, 1), " to ", fixed(100 * i.high, 1))),
              std::string::npos)
        << text;
    EXPECT_NE(text.find("40 (4)"), std::string::npos) << text;
    results.back().n_tests = 30;
    const std::string apart =
        report_markdown(make_report(summarize({}), {.prefixes = results}, "t"));
    EXPECT_NE(apart.find("30 requests a seed"), std::string::npos) << apart;
    EXPECT_NE(apart.find("20 requests a seed"), std::string::npos) << apart;
}

/// All methods on a small task; what is known is not done again.
TEST(RealPrefixDemo, RunsEveryMethodOnce) {
    const std::string path = default_model_path();
    if (!std::filesystem::exists(path)) GTEST_SKIP() << "no model at " << path;
    Backend backend(2);
    const LoadedModel loaded(path, backend);
    const Runtime engine(loaded, backend);
    const PrefixRuntime with = {.engine = engine};
    PrefixDemoOptions o;
    o.task = {.n_prefix_tokens = 200, .n_traces = 16, .n_tests = 3};
    o.shares = {0.5};  // whitening alone takes a third of so short a prefix
    const testing::TemporaryFile beside("");
    o.work_folder = beside.path() + ".work";
    std::vector<PrefixResult> results;
    std::set<std::string> known;
    const PrefixDemoHooks hooks = {
        .is_known = [&](const std::string& key) { return known.contains(key); },
        .on_result =
            [&](const PrefixResult& r) {
                EXPECT_TRUE(known.insert(r.key()).second) << r.method;
                results.push_back(r);
            }};
    run_prefix_demo(with, o, hooks);
    ASSERT_EQ(results.size(), prefix_methods().size());
    for (const PrefixResult& r : results) {
        EXPECT_EQ(r.n, 3) << r.method;
        EXPECT_TRUE(r.method != "full" || r.n_same == 3);
        if (r.share > 0 && r.size > 1) {
            EXPECT_LE(static_cast<double>(r.held_bytes), 0.52 * static_cast<double>(r.full_bytes))
                << r.method;
        }
    }
    run_prefix_demo(with, o, hooks);
    EXPECT_EQ(results.size(), prefix_methods().size());
    o.methods = {"tea-leaves"};
    EXPECT_THROW(run_prefix_demo(with, o, hooks), Error);
    std::filesystem::remove_all(o.work_folder);
}

}  // namespace
}  // namespace palimpsest
