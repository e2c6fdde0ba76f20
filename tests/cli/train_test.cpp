// palimpsest train: what it writes, what it refuses, and that it can be stopped.

#include <gtest/gtest.h>

#include <filesystem>

#include "support/gguf_builder.h"
#include "support/golden.h"
#include "support/process.h"

namespace palimpsest {
namespace {

using testing::ProgramResult;
using testing::run_palimpsest;
using testing::TemporaryFile;

std::string speaking_model() {
    testing::GgufBuilder f = testing::tiny_llama(testing::kTinyBpeTokens);
    testing::add_bpe_vocabulary(f);
    return f.bytes();
}

std::string some_text(size_t n) {
    std::string text;
    for (size_t i = 0; text.size() < n; ++i) text += "word " + std::to_string(i * i % 97) + ". ";
    return text;
}

class Train : public ::testing::Test {
 public:
    Train() : folder_(std::filesystem::path(model.path() + ".trained")) {
        std::filesystem::create_directory(folder_);
    }
    ~Train() override { std::filesystem::remove_all(folder_); }
    Train(const Train&) = delete;
    Train& operator=(const Train&) = delete;

    [[nodiscard]] std::string out() const { return (folder_ / "gate.gguf").string(); }
    [[nodiscard]] ProgramResult train(const std::string& document,
                                      const std::vector<std::string>& more = {}) const {
        std::vector<std::string> all = {
            "train", "gate",    "-m", model.path(), "-d", document, "-o", out(), "--length",
            "32",    "--steps", "6",  "--held-out", "1",  "--mid",  "8",  "-t",  "1"};
        all.insert(all.end(), more.begin(), more.end());
        return run_palimpsest(all);
    }

    const TemporaryFile model{speaking_model(), ".gguf"};
    const TemporaryFile text{some_text(2000), ".txt"};

 private:
    std::filesystem::path folder_;
};

TEST_F(Train, WritesASidecarThatRuns) {
    const ProgramResult r = train(text.path());
    ASSERT_EQ(r.status, 0) << r.err;
    const std::string stem = out().substr(0, out().size() - 5);
    for (const char* suffix : {".gguf", ".checkpoint", ".log.jsonl", ".loss.svg"}) {
        EXPECT_TRUE(std::filesystem::exists(stem + suffix)) << suffix;
    }
    const ProgramResult run = run_palimpsest({"run", "-m", model.path(), "--sidecar", out(),
                                              "--memory-budget", "64", "--policy", "gate", "-f",
                                              text.path(), "--chunk", "16", "-n", "2", "what?"});
    EXPECT_EQ(run.status, 0) << run.err;
    const ProgramResult unnamed =
        run_palimpsest({"run", "-m", model.path(), "--sidecar", out(), "-b", "128", "-f",
                        text.path(), "--chunk", "16", "-n", "2", "what?"});
    EXPECT_NE(unnamed.err.find("trained policy 'gate'"), std::string::npos) << unnamed.err;
}

TEST_F(Train, GoesOnWithTheSameFlagsOnly) {
    ASSERT_EQ(train(text.path()).status, 0);
    // What was whole already is written again: its sidecar may have found no room.
    std::filesystem::remove(out());
    EXPECT_EQ(train(text.path(), {"--resume"}).status, 0);
    EXPECT_TRUE(std::filesystem::exists(out()));
    const ProgramResult other = train(text.path(), {"--resume", "--seed", "9"});
    EXPECT_EQ(other.status, 2);
    EXPECT_NE(other.err.find("other settings"), std::string::npos) << other.err;
}

TEST_F(Train, InterruptedItSavesAndSaysHowToGoOn) {
    const ProgramResult r =
        run_palimpsest({"train", "gate", "-m", model.path(), "-d", text.path(), "-o", out(),
                        "--length", "32", "--steps", "100000000", "-t", "1"},
                       {.interrupt_after_s = 4});
    EXPECT_EQ(r.status, 130) << r.err;
    EXPECT_NE(r.err.find("--resume"), std::string::npos) << r.err;
    EXPECT_TRUE(std::filesystem::exists(out()));
    // What is half trained runs where its policy is named, and not by itself.
    const std::vector<std::string> run = {"run", "-m",  model.path(), "--sidecar", out(),
                                          "-b",  "128", "-f",         text.path(), "--chunk",
                                          "16",  "-n",  "2",          "what?"};
    const ProgramResult unnamed = run_palimpsest(run);
    EXPECT_EQ(unnamed.status, 0) << unnamed.err;
    EXPECT_NE(unnamed.err.find("was stopped at step "), std::string::npos) << unnamed.err;
    EXPECT_EQ(unnamed.err.find("trained policy"), std::string::npos) << unnamed.err;
    // A checkpoint is beside it, and goes on.
    const ProgramResult on =
        run_palimpsest({"train", "gate", "-m", model.path(), "-d", text.path(), "-o", out(),
                        "--length", "32", "--steps", "100000000", "-t", "1", "--resume"},
                       {.interrupt_after_s = 3});
    EXPECT_EQ(on.status, 130) << on.err;
    EXPECT_EQ(on.err.find("step 0 of"), std::string::npos) << on.err;
}

TEST_F(Train, RefusesTextsThatCannotBe) {
    const TemporaryFile empty("", ".txt");
    EXPECT_EQ(train(empty.path()).status, 4);
    const TemporaryFile brief("a few words", ".txt");
    const ProgramResult r = train(brief.path());
    EXPECT_EQ(r.status, 2);
    EXPECT_NE(r.err.find("too short"), std::string::npos) << r.err;
    EXPECT_EQ(train("no/such.txt").status, 3);
    const TemporaryFile broken("{\"text\": 3}\n", ".jsonl");
    EXPECT_EQ(train(broken.path()).status, 4);
    EXPECT_FALSE(std::filesystem::exists(out()));
}

TEST_F(Train, ReadsJsonLines) {
    const TemporaryFile lines("{\"text\": \"" + some_text(400) + "\"}\n{\"text\": \"x\"}\n",
                              ".jsonl");
    const ProgramResult r = train(lines.path());
    EXPECT_EQ(r.status, 0) << r.err;
}

TEST_F(Train, RefusesFlagsThatCannotBe) {
    EXPECT_EQ(train(text.path(), {"--warm-up", "5", "--decay", "5"}).status, 2);
    EXPECT_EQ(train(text.path(), {"--resume"}).status, 3);
    EXPECT_EQ(train(text.path(), {"--sidecar", model.path()}).status, 4);
    EXPECT_EQ(run_palimpsest({"train", "dance"}).status, 2);
}

TEST_F(Train, AFolderThatIsNotThereIsSaidAtOnce) {
    const ProgramResult r = run_palimpsest({"train", "gate", "-m", model.path(), "-d", text.path(),
                                            "-o", "no/such/folder/x.gguf", "--length", "32"});
    EXPECT_EQ(r.status, 74) << r.err;
    EXPECT_NE(r.err.find("no/such/folder"), std::string::npos) << r.err;
}

}  // namespace
}  // namespace palimpsest
