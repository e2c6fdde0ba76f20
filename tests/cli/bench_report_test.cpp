// palimpsest bench report: where its output goes, and what it refuses.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "support/golden.h"
#include "support/process.h"
#include "support/quality_samples.h"
#include "support/task_files.h"

namespace palimpsest {
namespace {

using testing::ProgramResult;
using testing::run_palimpsest;
using testing::TemporaryFile;

#define EXPECT_SAYS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

std::string some_results() {
    std::string text;
    for (const char* id : {"1", "2"}) {
        text += to_json_line(testing::full_result("vt", id, 1)) + "\n";
        text += to_json_line(testing::policy_result("window", "vt", id, 0.5)) + "\n";
    }
    return text;
}

constexpr const char* kSpeed =
    R"({"phase":"decode","depth":0,"memory":"full","ours":9,"threads":1,"model":"m"})"
    "\n";

ProgramResult report(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"bench", "report"});
    return run_palimpsest(arguments);
}

void expect_failure(const ProgramResult& r, int status, const std::string& says) {
    EXPECT_EQ(r.status, status) << r.err;
    EXPECT_EQ(r.out, "");
    EXPECT_TRUE(r.err.starts_with("palimpsest: ")) << r.err;
    EXPECT_SAYS(r.err, says);
}

std::string content_of(const std::string& path) {
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

TEST(BenchReport, MarkdownGoesToStandardOutput) {
    const TemporaryFile file(some_results(), ".jsonl");
    const ProgramResult r = report({file.path(), "--title", "Mine"});
    EXPECT_EQ(r.status, 0) << r.err;
    EXPECT_EQ(r.err, "");
    EXPECT_TRUE(r.out.starts_with("# Mine\n")) << r.out;
    EXPECT_SAYS(r.out, "| window | **50.0**");
}

TEST(BenchReport, WritesEveryFileAskedFor) {
    const TemporaryFile file(some_results() + kSpeed, ".jsonl");
    const TemporaryFile html("");
    const TemporaryFile markdown("");
    const TemporaryFile csv("");
    const ProgramResult r = report(
        {file.path(), "--html", html.path(), "--markdown", markdown.path(), "--csv", csv.path()});
    EXPECT_EQ(r.status, 0) << r.err;
    EXPECT_EQ(r.out, "");
    EXPECT_TRUE(content_of(html.path()).starts_with("<!DOCTYPE html>"));
    EXPECT_SAYS(content_of(html.path()), "Speed");
    EXPECT_TRUE(content_of(markdown.path()).starts_with("# "));
    EXPECT_TRUE(content_of(csv.path()).starts_with("model,"));
}

TEST(BenchReport, WritesChartsThatStandAlone) {
    std::string text = some_results();
    for (const double evicted : {0.25, 0.75}) {
        text += to_json_line(testing::policy_result("window", "vt", "1", evicted)) + "\n";
    }
    const TemporaryFile file(text, ".jsonl");
    const testing::TemporaryFolder folder;
    const ProgramResult r = report({file.path(), "--figures", folder.path()});
    EXPECT_EQ(r.status, 0) << r.err;
    EXPECT_EQ(r.out, "");
    int n = 0;
    for (const auto& written : std::filesystem::directory_iterator(folder.path())) {
        ++n;
        EXPECT_EQ(written.path().extension(), ".svg");
        const std::string svg = content_of(written.path().string());
        EXPECT_TRUE(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\"")) << svg;
        EXPECT_SAYS(svg, "<style>:root {");
        EXPECT_TRUE(svg.ends_with("</svg>\n"));
    }
    EXPECT_GT(n, 0);
    expect_failure(report({file.path(), "--figures", folder.path() + "/none"}), 2, "none");
}

TEST(BenchReport, OneOutputMayBeStandardOutput) {
    const TemporaryFile file(some_results(), ".jsonl");
    EXPECT_TRUE(report({file.path(), "--csv", "-"}).out.starts_with("model,"));
    expect_failure(report({file.path(), "--csv", "-", "--html", "-"}), 2, "only one");
}

TEST(BenchReport, ReadsSeveralFilesAndStandardInput) {
    const TemporaryFile speed(kSpeed, ".jsonl");
    const ProgramResult r =
        run_palimpsest({"bench", "report", speed.path(), "-"}, {.input = some_results()});
    EXPECT_EQ(r.status, 0) << r.err;
    EXPECT_SAYS(r.out, "## Speed");
    EXPECT_SAYS(r.out, "RULER-style");
}

TEST(BenchReport, SpeedAloneIsAReport) {
    const TemporaryFile speed(kSpeed, ".jsonl");
    EXPECT_SAYS(report({speed.path()}).out, "## Speed");
    expect_failure(report({speed.path(), "--csv", "-"}), 2, "--csv");
}

TEST(BenchReport, HalfALastLineIsLeftAside) {
    const std::string text = some_results();
    const TemporaryFile file(text + text.substr(0, 100), ".jsonl");
    EXPECT_EQ(report({file.path()}).status, 0);
}

TEST(BenchReport, WithoutAFileFails) { expect_failure(report({}), 2, "files"); }

TEST(BenchReport, MissingFileFails) {
    expect_failure(report({"no/such.jsonl"}), 3, "no/such.jsonl");
}

TEST(BenchReport, DirectoryFails) { expect_failure(report({"/"}), 3, "directory"); }

TEST(BenchReport, FileWithoutResultsFails) {
    for (const char* content : {"", "\n\n"}) {
        const TemporaryFile file(content, ".jsonl");
        expect_failure(report({file.path()}), 4, "no results");
    }
}

TEST(BenchReport, MalformedLineFailsWithItsNumber) {
    const TemporaryFile file(some_results() + "{broken}\n", ".jsonl");
    expect_failure(report({file.path()}), 4, "line 5");
}

TEST(BenchReport, ResultsOfAnotherVersionFail) {
    const TemporaryFile file("{\"kind\":\"quality\",\"version\":2}\n", ".jsonl");
    expect_failure(report({file.path()}), 5, "version 2");
}

TEST(BenchReport, OutputThatCannotBeWrittenFails) {
    const TemporaryFile file(some_results(), ".jsonl");
    expect_failure(report({file.path(), "--html", "no/such/folder/report.html"}), 74,
                   "no/such/folder");
}

TEST(BenchReport, HelpListsIt) {
    const ProgramResult r = run_palimpsest({"bench", "--help"});
    EXPECT_SAYS(r.out, "report");
    EXPECT_SAYS(report({"--help"}).out, "--markdown");
}

}  // namespace
}  // namespace palimpsest
