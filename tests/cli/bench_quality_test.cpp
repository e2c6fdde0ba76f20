// palimpsest bench quality: what it refuses, and that nothing is lost when it is stopped.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "bench/quality/quality_result.h"
#include "engine/default_model.h"
#include "support/golden.h"
#include "support/process.h"

namespace palimpsest {
namespace {

using testing::ProgramOptions;
using testing::ProgramResult;
using testing::run_palimpsest;
using testing::TemporaryFile;

ProgramResult quality(std::vector<std::string> arguments, const ProgramOptions& options = {}) {
    arguments.insert(arguments.begin(), {"bench", "quality"});
    return run_palimpsest(arguments, options);
}

void expect_refused(const ProgramResult& r, int status, const std::string& says) {
    EXPECT_EQ(r.status, status) << r.err;
    EXPECT_NE(r.err.find(says), std::string::npos) << r.err;
}

std::string content_of(const std::string& path) {
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

TEST(BenchQuality, ListsItsTasks) {
    const ProgramResult r = quality({"--list-tasks"});
    EXPECT_EQ(r.status, 0) << r.err;
    for (const char* name : {"niah_multikey_3", "fwe", "needle", "many-shot", "qasper", "text"}) {
        EXPECT_NE(r.out.find(name), std::string::npos) << name;
    }
}

TEST(BenchQuality, UnknownNamesAreAnsweredWithTheNearest) {
    expect_refused(quality({"--tasks", "niah_singel_1"}), 3, "niah_single_1");
    expect_refused(quality({"-p", "snapkv", "--ratios", "0.5"}), 3, "snap-kv");
}

TEST(BenchQuality, NumbersOutsideTheirRangesAreRefused) {
    expect_refused(quality({"-n", "0"}), 2, "--samples");
    expect_refused(quality({"--ratios", "1.5"}), 2, "--ratios");
    expect_refused(quality({"--budgets", "0"}), 2, "budget");
    expect_refused(quality({"--lengths", "-5"}), 2, "--lengths");
    expect_refused(quality({"--questions", "sometimes"}), 2, "--questions");
    expect_refused(quality({"-p", "h2o"}), 2, "--ratios");
}

class RealBenchQuality : public ::testing::Test {
 protected:
    void SetUp() override {
        if (!std::filesystem::exists(default_model_path())) {
            GTEST_SKIP() << "no model at " << default_model_path();
        }
    }
    const TemporaryFile file{"", ".jsonl"};
    const std::vector<std::string> small = {"--lengths", "300", "-n",  "1",  "--ratios",
                                            "0.5",       "-p",  "h2o", "-o", file.path()};

    ProgramResult run(std::vector<std::string> more = {}) {
        more.insert(more.begin(), small.begin(), small.end());
        return quality(more);
    }
};

TEST_F(RealBenchQuality, GoesOnWhereItWasEvenAfterHalfALine) {
    EXPECT_EQ(run().status, 0);
    const std::string all = content_of(file.path());
    EXPECT_EQ(read_quality_results(all, "it").size(), 3);
    const size_t last = all.rfind('\n', all.size() - 2) + 1;
    std::ofstream(file.path()) << all.substr(0, last + 40);
    const ProgramResult again = run();
    EXPECT_EQ(again.status, 0) << again.err;
    EXPECT_NE(again.err.find("1 results added"), std::string::npos) << again.err;
    const auto results = read_quality_results(content_of(file.path()), "it");
    ASSERT_EQ(results.size(), 3);
    EXPECT_EQ(results.back().key(), read_quality_results(all, "it").back().key());
    EXPECT_EQ(run().err.find("0 results added"), 0);
}

TEST_F(RealBenchQuality, MissingDataIsNamedWithTheFlagThatBringsIt) {
    expect_refused(run({"--tasks", "niah_single_2"}), 2, "--haystack");
    expect_refused(run({"--tasks", "qa_1"}), 2, "--squad");
    expect_refused(run({"--tasks", "qasper"}), 2, "--longbench");
    expect_refused(run({"--tasks", "text"}), 2, "--text");
    expect_refused(run({"--ruler-samples", "/nowhere"}), 3, "/nowhere");
    EXPECT_EQ(content_of(file.path()), "");
}

TEST_F(RealBenchQuality, DamagedAndForeignResultsAreRefusedAndLeftAlone) {
    std::ofstream(file.path()) << "{\"kind\":\"quality\",\"version\":1}\n{}\n";
    expect_refused(run(), 4, "line 1");
    std::ofstream(file.path()) << "{\"kind\":\"quality\",\"version\":99}\n";
    expect_refused(run(), 5, "99");
    EXPECT_NE(content_of(file.path()).find("99"), std::string::npos);
    expect_refused(quality({"--lengths", "300", "-o", "/"}), 74, "/");
}

TEST_F(RealBenchQuality, LengthsBeyondTheModelAreRefusedWithBothNumbers) {
    const ProgramResult r = run({"--lengths", "20000"});
    expect_refused(r, 2, "20000");
    expect_refused(r, 2, "8192");
}

TEST_F(RealBenchQuality, CtrlCEndsItWithWhatWasDone) {
    const ProgramResult r =
        quality({"--lengths", "4000", "-n", "50", "-o", file.path()}, {.interrupt_after_s = 1.5});
    EXPECT_EQ(r.status, 130) << r.err;
    EXPECT_NE(r.err.find("results added"), std::string::npos) << r.err;
    EXPECT_LT(r.wall_s, 30);
}

}  // namespace
}  // namespace palimpsest
