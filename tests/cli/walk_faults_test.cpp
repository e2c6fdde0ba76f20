// The k-th write, read or allocation of each command fails, for k = 1, 2, ... until nothing is left
// to fail: each ends with a status that help promises, what was there before is whole or replaced
// by what is new and whole, and no temporary stays.

#include <gtest/gtest.h>

#ifdef PALIMPSEST_FAILING_CALLS

#include <algorithm>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "support/golden.h"
#include "support/process.h"
#include "support/task_files.h"
#include "support/walk_files.h"

namespace palimpsest {
namespace {

namespace fs = std::filesystem;

using testing::ProgramOptions;
using testing::ProgramResult;
using testing::run_palimpsest;
using Words = std::vector<std::string>;

/// A command that writes `out`, if that is not empty.
struct Use {
    const char* name;
    Words words;
    const char* out;
    bool is_same_each_time = true;  // its output
    const char* input = "";
};

struct Fault {
    const char* kind;
    bool goes_on;  // and every call after it fails too, as on a full disk
};

class Faults : public ::testing::TestWithParam<std::tuple<Use, Fault>> {
 protected:
    Faults() { testing::fill_for_walk(folder_); }

    [[nodiscard]] fs::path at(const std::string& name) const {
        return fs::path(folder_.path()) / name;
    }

    /// False: there was no k-th call.
    bool fail_at(int64_t k) {
        const auto& [use, fault] = GetParam();
        fs::remove(at("mark"));
        // Work that an earlier fault left is tried elsewhere; here every build does all of it.
        fs::remove_all(at(std::string(use.out) + ".work"));
        if (*use.out != '\0') folder_.write(use.out, kOld);
        std::vector<std::string> environment = {
            "LD_PRELOAD=" PALIMPSEST_FAILING_CALLS, cat("FAIL_KIND=", fault.kind),
            cat("FAIL_AT=", k), cat("FAIL_MARK=", at("mark").string()), "GOMP_SPINCOUNT=2000"};
        if (fault.goes_on) environment.emplace_back("FAIL_ON=1");
        const ProgramResult r = run(environment);
        const std::string what = cat(use.name, ", ", fault.kind, " ", k);
        static const std::set<int> kGood = {0, 2, 3, 4, 5, 6, 74};
        EXPECT_TRUE(kGood.contains(r.status)) << what << " ends with " << r.status << ": " << r.err;
        expect_whole(what, r);
        return fs::exists(at("mark"));
    }

    [[nodiscard]] ProgramResult run(const std::vector<std::string>& environment) const {
        const Use& use = std::get<0>(GetParam());
        return run_palimpsest(use.words, {.input = use.input,
                                          .timeout_s = 60,
                                          .folder = folder_.path(),
                                          .environment = environment});
    }

    void expect_whole(const std::string& what, const ProgramResult& r) const {
        const Use& use = std::get<0>(GetParam());
        for (const auto& entry : fs::recursive_directory_iterator(folder_.path())) {
            const std::string name = entry.path().filename().string();
            EXPECT_EQ(name.find(".partial"), name.npos) << what << " left " << name;
        }
        if (*use.out == '\0') return;
        const std::string text = testing::read_text(at(use.out));
        if (use.is_same_each_time) {
            EXPECT_TRUE(text == whole_ || (text == kOld && r.status != 0))
                << what << ", status " << r.status << ": neither old nor new, of " << text.size()
                << " bytes";
        } else {
            EXPECT_TRUE(text == kOld || text.ends_with("}\n") || text.ends_with("}")) << what;
        }
    }

    static constexpr const char* kOld = "what was there";
    testing::TemporaryFolder folder_;
    std::string whole_;
};

TEST_P(Faults, LoseNothing) {
    const Use& use = std::get<0>(GetParam());
    const ProgramResult good = run({"GOMP_SPINCOUNT=2000"});
    ASSERT_EQ(good.status, 0) << good.err;
    if (*use.out != '\0') whole_ = testing::read_text(at(use.out));
    int64_t k = 1;
    while (fail_at(k) && !HasFailure()) k += 1 + k / 20;
    RecordProperty("calls", static_cast<int>(k));
    EXPECT_GT(k, 1) << "not one call was met";
}

const Use kUses[] = {
    {"run",
     {"run",     "-m",
      "m.gguf",  "-t",
      "1",       "-n",
      "1",       "-f",
      "doc.txt", "--report-json",
      "out",     "-b",
      "64",      "-p",
      "window",  "--chunk",
      "64",      "--eviction-interval",
      "64",      "hi"},
     "out",
     false},
    {"chat",
     {"chat", "-m", "m.gguf", "-t", "1", "-n", "1", "--temperature", "0"},
     "out",
     true,
     "hi\n/save out\n/quit\n"},
    {"inspect", {"inspect", "m.gguf"}, ""},
    {"tokenize", {"tokenize", "-m", "m.gguf", "-f", "doc.txt"}, ""},
    {"trace", {"trace", "-m", "m.gguf", "-t", "1", "--tokens", "tokens.json", "-o", "out"}, "out"},
    {"convert", {"convert", "lclm", "checkpoint", "-o", "made"}, "made/decoder.gguf"},
    {"skim",
     {"skim", "-m", "long.gguf", "-t", "1", "-n", "2", "--rounds", "1", "--latent", "adapter.gguf",
      "--encoder", "m.gguf", "--latent-cache", "latents", "-f", "rules.txt", "hi"},
     ""},
    {"train_data", {"train-data", "--documents", "2", "--characters", "1000", "-o", "out"}, "out"},
    {"report", {"bench", "report", "results.jsonl", "--markdown", "out"}, "out"},
    {"train",
     {"train",  "gate",     "-m",      "m.gguf", "-t",       "1",  "-d",         "doc.txt",
      "-o",     "out.gguf", "--steps", "2",      "--length", "32", "--held-out", "0",
      "--pool", "1",        "--mid",   "4",      "--batch",  "1"},
     "out.gguf"},
    {"prefix",
     {"prefix", "build", "-m", "m.gguf", "-t", "1", "-f", "rules.txt", "--traces", "traces.jsonl",
      "-k", "4", "--held-out", "1", "-o", "out.prefix.gguf"},
     "out.prefix.gguf"},
};

INSTANTIATE_TEST_SUITE_P(
    Commands, Faults,
    ::testing::Combine(::testing::ValuesIn(kUses),
                       ::testing::Values(Fault{"write", false}, Fault{"write", true},
                                         Fault{"read", false}, Fault{"allocation", false},
                                         Fault{"allocation", true})),
    [](const auto& test) {
        const Fault& fault = std::get<1>(test.param);
        return cat(std::get<0>(test.param).name, "_", fault.kind, fault.goes_on ? "_for_good" : "");
    });

}  // namespace
}  // namespace palimpsest

#endif
