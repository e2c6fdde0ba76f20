// The report as a page, Markdown and CSV: complete, well-formed, and never broken by its contents.

#include <gtest/gtest.h>

#include <algorithm>

#include "bench/report/report_csv.h"
#include "bench/report/report_html.h"
#include "bench/report/report_markdown.h"
#include "bench/report/svg_chart.h"
#include "core/error.h"
#include "support/quality_samples.h"

namespace palimpsest {
namespace {

using testing::full_result;
using testing::policy_result;

#define EXPECT_SAYS(text, part) EXPECT_NE((text).find(part), std::string::npos)
#define EXPECT_NOT_SAYS(text, part) EXPECT_EQ((text).find(part), std::string::npos)

/// What is wrong with a text as XML, as far as tags go; "" if nothing is.
std::string fault_in_tags(std::string_view text) {
    std::vector<std::string> open;
    size_t at = 0;
    while ((at = text.find('<', at)) != std::string_view::npos) {
        const size_t end = text.find('>', at);
        if (end == std::string_view::npos) return "a tag is not ended";
        const std::string_view tag = text.substr(at + 1, end - at - 1);
        at = end + 1;
        if (tag.starts_with('!') || tag.ends_with('/')) continue;
        if (tag.find('<') != std::string_view::npos) return cat("'<' in ", tag);
        if (std::ranges::count(tag, '"') % 2 != 0) return cat("quotes in ", tag);
        const std::string name(tag.substr(0, tag.find_first_of(" \n")));
        if (!name.starts_with('/')) {
            open.push_back(name);
        } else if (open.empty() || "/" + open.back() != name) {
            return cat(name, " closes ", open.empty() ? "nothing" : open.back());
        } else {
            open.pop_back();
        }
    }
    return open.empty() ? "" : open.back() + " is not closed";
}

std::string page_of(const std::vector<QualityResult>& results,
                    const std::vector<SpeedLine>& speed = {}) {
    std::string page = report_html(make_report(summarize(results), {.speed = speed}, "A title"));
    EXPECT_EQ(fault_in_tags(page), "");
    for (const char* outside : {"http://", "https://", "<script", "src=", "url(", "@import"}) {
        EXPECT_NOT_SAYS(page, outside) << outside;
    }
    return page;
}

std::string markdown_of(const std::vector<QualityResult>& results) {
    return report_markdown(make_report(summarize(results), {}, "A title"));
}

/// What a policy makes of a sample at two budgets, asked both ways.
void add_policy(std::vector<QualityResult>& to, const std::string& policy,
                const QualityResult& full, double score) {
    for (const char* question : {"aware", "agnostic"}) {
        to.push_back(policy_result(policy, full.task, full.sample, score));
        to.back().question = question;
        to.push_back(to.back());
        to.back().budget = "evict 75 %";
        to.back().kept = 0.25;
        to.back().bytes = 250;
    }
}

/// Two tasks that count, one that does not, two policies.
std::vector<QualityResult> small_run() {
    std::vector<QualityResult> results;
    for (const auto& [task, n_full] :
         {std::pair{"easy", 8}, std::pair{"fair", 4}, std::pair{"chance", 1}}) {
        for (int i = 0; i < 8; ++i) {
            const QualityResult full = full_result(task, std::to_string(i), i < n_full ? 1 : 0);
            results.push_back(full);
            add_policy(results, "window", full, i % 2 == 0 ? full.score : 0);
            add_policy(results, "snap-kv", full, i % 2 == 0 ? full.score : 0);
        }
    }
    return results;
}

std::vector<QualityResult> needle_run() {
    std::vector<QualityResult> results;
    for (const int64_t length : {1024, 2048}) {
        for (const double depth : {0.0, 0.5, 1.0}) {
            const std::string id = cat(length, "-", depth);
            results.push_back(full_result("needle", id, 1));
            results.push_back(policy_result("window", "needle", id, depth > 0.7 ? 1 : 0));
            for (QualityResult* r : {&results.back(), &results.back() - 1}) {
                r->group = "needle";
                r->length = length;
                r->depth = depth;
            }
        }
    }
    return results;
}

std::vector<QualityResult> divergence_run() {
    std::vector<QualityResult> results;
    for (const char* policy : {"window", "h2o"}) {
        for (const char* id : {"1", "2"}) {
            QualityResult r = policy_result(policy, "text", id, 0.5);
            r.group = "text";
            r.metric = "kl";
            r.nll = 3.5;
            r.nll_full = 3;
            r.kl_by_position = {{.begin = 0, .end = 16, .kl = 0.6},
                                {.begin = 16, .end = 32, .kl = 0.4}};
            results.push_back(std::move(r));
        }
    }
    return results;
}

std::vector<SpeedLine> speed_run() {
    return read_speed_lines(
        R"({"phase":"decode","depth":0,"memory":"full","ours":90,"peer":80,"threads":2,"model":"m"})"
        "\n"
        R"({"phase":"decode","depth":4096,"memory":"full","ours":70,"peer":35,"threads":2,"model":"m"})"
        "\n",
        "f");
}

TEST(Report, PageHasEverySection) {
    std::vector<QualityResult> results = small_run();
    for (const auto& more : {needle_run(), divergence_run()}) {
        results.insert(results.end(), more.begin(), more.end());
    }
    const std::string page = page_of(results, speed_run());
    for (const char* part :
         {"At a glance", "What was run", "RULER-style tasks", "One-shot, question-aware",
          "One-shot, question-agnostic", "Needle grid", "Found, by length and depth",
          "Divergence from the full cache", "By position: evict 50 %", "Speed", "2.00x",
          "How to read this", "prefers-color-scheme: dark", "snap-kv", "evict 75 %"}) {
        EXPECT_SAYS(page, part) << part;
    }
}

TEST(Report, NamesTheTasksThatAreLeftOut) {
    for (const std::string& text : {page_of(small_run()), markdown_of(small_run())}) {
        EXPECT_SAYS(text, "Means are over 2 tasks");
        EXPECT_SAYS(text, "stays under 30: chance (12.5)");
    }
}

TEST(Report, FullCacheAndWindowStandFirst) {
    const std::string text = markdown_of(small_run());
    const size_t table = text.find("| method | evict 50 %");
    ASSERT_NE(table, std::string::npos);
    const size_t full = text.find("| full ", table);
    const size_t window = text.find("| window ", table);
    const size_t other = text.find("| snap-kv ", table);
    EXPECT_LT(full, window);
    EXPECT_LT(window, other);
}

TEST(Report, SaysThatTheWindowIsMissing) {
    std::vector<QualityResult> results = small_run();
    std::erase_if(results, [](const QualityResult& r) { return r.policy == "window"; });
    EXPECT_SAYS(page_of(results), "window policy was not run here");
}

TEST(Report, WithoutTheFullCacheSaysWhyThereIsNoRetention) {
    std::vector<QualityResult> results = small_run();
    std::erase_if(results, [](const QualityResult& r) { return r.policy == "full"; });
    EXPECT_SAYS(page_of(results), "no results of the full cache");
    EXPECT_SAYS(page_of(results), "Mean score, in percent");
}

TEST(Report, WithTheFullCacheAloneShowsItsScores) {
    std::vector<QualityResult> results = small_run();
    std::erase_if(results, [](const QualityResult& r) { return r.policy != "full"; });
    const std::string page = page_of(results);
    EXPECT_SAYS(page, "Only the full cache was run");
    EXPECT_SAYS(page, "12.5");
    EXPECT_NOT_SAYS(page, "At a glance");
}

TEST(Report, OneResultIsEnough) {
    EXPECT_SAYS(page_of({full_result("a", "1", 1)}), "100.0");
    EXPECT_SAYS(page_of({policy_result("h2o", "a", "1", 0.5)}), "50.0");
    EXPECT_NE(page_of({}, speed_run()), "");
}

TEST(Report, ScoresOfZeroEverywhereAreShown) {
    std::vector<QualityResult> results = small_run();
    for (QualityResult& r : results) r.score = 0;
    EXPECT_SAYS(page_of(results), "On no task does the full cache reach 30");
}

TEST(Report, OneSampleHasNoInterval) {
    const std::string text =
        markdown_of({full_result("a", "1", 1), policy_result("h2o", "a", "1", 1)});
    EXPECT_NOT_SAYS(text, "100.0 to 100.0");
}

TEST(Report, HundredsOfMethodsKeepThePageWellFormed) {
    std::vector<QualityResult> results = {full_result("a", "1", 1)};
    for (int i = 0; i < 300; ++i) {
        results.push_back(policy_result("h2o", "a", "1", i / 300.0));
        results.back().options = cat("window=", i);
    }
    EXPECT_SAYS(page_of(results), "window=299");
}

TEST(Report, TextsFromFilesCannotBecomeMarkup) {
    const std::string evil = "<script>alert(\"1\")</script>&'|\n\x01\xFF";
    std::vector<QualityResult> results = {full_result("a", "1", 1),
                                          policy_result("h2o", "a", "1", 1)};
    for (QualityResult& r : results) {
        r.task = r.model = r.source = r.commit = r.processor = r.group = evil;
    }
    results[1].budget = results[1].options = results[1].protocol = results[1].question = evil;
    const std::string page = page_of(results);
    EXPECT_NOT_SAYS(page, "<script");
    EXPECT_NOT_SAYS(page, '\x01');
    EXPECT_NOT_SAYS(page, '\xFF');
    EXPECT_SAYS(page, "&lt;script&gt;");
    const std::string text = markdown_of(results);
    EXPECT_NOT_SAYS(text, "<script");
    EXPECT_SAYS(text, "\\|");
}

TEST(Report, TitleIsEscaped) {
    const std::string page = report_html(make_report(summarize({}), {}, "a < b & c"));
    EXPECT_SAYS(page, "<h1>a &lt; b &amp; c</h1>");
}

TEST(Report, MarkdownTablesHaveAsManyCellsAsColumns) {
    std::vector<QualityResult> results = small_run();
    for (const auto& more : {needle_run(), divergence_run()}) {
        results.insert(results.end(), more.begin(), more.end());
    }
    std::istringstream lines(markdown_of(results));
    ptrdiff_t columns = 0;
    for (std::string line; std::getline(lines, line);) {
        if (!line.starts_with('|')) {
            columns = 0;
            continue;
        }
        const ptrdiff_t here = std::ranges::count(line, '|');
        if (columns == 0) columns = here;
        EXPECT_EQ(here, columns) << line;
    }
}

TEST(ReportCsv, HasALineARowAndAFieldAColumn) {
    const QualitySummary summary = summarize(small_run());
    const std::string text = report_csv(summary);
    EXPECT_EQ(std::ranges::count(text, '\n'), std::ssize(summary.rows) + 1);
    std::istringstream lines(text);
    std::string line;
    std::getline(lines, line);
    const ptrdiff_t columns = std::ranges::count(line, ',');
    while (std::getline(lines, line)) {
        EXPECT_TRUE(line.ends_with('\r'));
        EXPECT_EQ(std::ranges::count(line, ','), columns) << line;
    }
}

TEST(ReportCsv, QuotesWhatWouldBreakALine) {
    std::vector<QualityResult> results = {policy_result("h2o", "a", "1", 0.5)};
    results[0].model = "";
    results[0].options = "a=1,b=2";
    results[0].task = "say \"hi\"\nthere";
    const std::string text = report_csv(summarize(results));
    EXPECT_SAYS(text, "\"a=1,b=2\"");
    EXPECT_SAYS(text, "\"say \"\"hi\"\"\nthere\"");
    EXPECT_SAYS(text, "\r\n,ruler,");
}

TEST(SpeedLines, AreReadFromAmongOthers) {
    const std::vector<SpeedLine> lines = speed_run();
    ASSERT_EQ(lines.size(), 2U);
    EXPECT_EQ(lines[1].depth, 4096);
    EXPECT_EQ(lines[1].peer, 35);
    QualityResult r = full_result("a", "1", 1);
    r.output = R"({"phase": "a trap"})";
    EXPECT_TRUE(read_speed_lines(to_json_line(r) + "\n", "f").empty());
}

TEST(SpeedLines, DamagedOnesAreRefusedWithTheirPlace) {
    try {
        (void)read_speed_lines("\n{\"phase\":\"decode\",\"depth\":\"deep\"}\n", "f.jsonl");
        ADD_FAILURE() << "nothing was thrown";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kCorrupt);
        EXPECT_TRUE(std::string(e.what()).starts_with("'f.jsonl', line 2")) << e.what();
    }
}

TEST(Charts, LineChartOfOnePointAndOfNone) {
    LineChart chart = {.title = "t", .x = {}, .y = {}, .series = {{.label = "a", .points = {}}}};
    EXPECT_EQ(line_chart_svg(chart), "");
    chart.series[0].points = {{.x = 5, .y = 0}};
    EXPECT_EQ(fault_in_tags(line_chart_svg(chart)), "");
    EXPECT_NOT_SAYS(line_chart_svg(chart), "nan");
}

TEST(Charts, LogAxesStayFiniteWithZeros) {
    LineChart chart = {.title = "t", .x = {.is_log = true}, .y = {.is_log = true}, .series = {}};
    chart.series = {{.label = "a", .points = {{.x = 0, .y = 0}, {.x = 100, .y = 1e-9}}}};
    const std::string svg = line_chart_svg(chart);
    for (const char* bad : {"nan", "inf"}) EXPECT_NOT_SAYS(svg, bad);
}

TEST(Charts, NamesOfLinesDoNotOverlap) {
    LineChart chart = {.title = "t", .x = {}, .y = {}, .series = {}};
    for (int i = 0; i < 12; ++i) {
        chart.series.push_back(
            {.label = cat("name", i), .colour = 1, .points = {{1, 0.5}, {2, 0.5}}});
    }
    const std::string svg = line_chart_svg(chart);
    std::vector<double> heights;
    for (size_t at = svg.find("name strong"); at != std::string::npos;
         at = svg.find("name strong", at + 1)) {
        const size_t y = svg.rfind(" y=\"", at) + 4;
        heights.push_back(std::stod(svg.substr(y)));
    }
    ASSERT_EQ(heights.size(), 12U);
    std::ranges::sort(heights);
    for (size_t i = 1; i < heights.size(); ++i) EXPECT_GE(heights[i] - heights[i - 1], 12.9);
}

TEST(Charts, HeatMapShowsWhatWasNotAsked) {
    const HeatMap map = {
        .title = "t", .columns = {"1K"}, .rows = {"0 %", "100 %"}, .values = {100, -1}};
    const std::string svg = heat_map_svg(map);
    EXPECT_EQ(fault_in_tags(svg), "");
    EXPECT_SAYS(svg, "h10");
    EXPECT_SAYS(svg, "not asked");
}

}  // namespace
}  // namespace palimpsest
