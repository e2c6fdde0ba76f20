// palimpsest prefix: from a text to answers, on a model that talks nonsense; and what is refused,
// in words and by exit status.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "support/golden.h"
#include "support/process.h"
#include "support/task_files.h"
#include "support/tiny_model.h"

namespace palimpsest {
namespace {

namespace fs = std::filesystem;

using testing::ProgramOptions;
using testing::ProgramResult;
using testing::run_palimpsest;
using testing::TemporaryFile;

void expect_refused(const ProgramResult& r, int status, const std::string& says) {
    EXPECT_EQ(r.status, status) << r.err;
    EXPECT_NE(r.err.find(says), std::string::npos) << r.err;
}

TEST(PrefixCommand, RefusesFilesThatAreNoMemories) {
    expect_refused(run_palimpsest({"prefix", "info", "/no/such.prefix.gguf"}), 3, "no/such");
    const TemporaryFile garbage("not a GGUF file at all", ".prefix.gguf");
    expect_refused(run_palimpsest({"prefix", "info", garbage.path()}), 4, "GGUF");
}

TEST(PrefixCommand, SaysWhatIsMissing) {
    expect_refused(run_palimpsest({"prefix"}), 2, "subcommand");
    expect_refused(run_palimpsest({"prefix", "build", "-o", "x.prefix.gguf"}), 2, "--file");
    const TemporaryFile text("A rule.");
    expect_refused(run_palimpsest({"prefix", "build", "-f", text.path(), "-o", "x.prefix"}), 2,
                   "GGUF");
    expect_refused(run_palimpsest({"prefix", "build", "-f", text.path(), "-o", "x.prefix.gguf",
                                   "-b", "25%", "--self-study", "3"}),
                   2, "--budget");
}

TEST(PrefixCommand, HelpNamesItsParts) {
    const ProgramResult r = run_palimpsest({"prefix", "--help"});
    EXPECT_EQ(r.status, 0);
    for (const char* part : {"build", "info", "verify", "compose"}) {
        EXPECT_NE(r.out.find(part), std::string::npos) << part;
    }
}

class PrefixProgram : public ::testing::Test {
 protected:
    explicit PrefixProgram(const testing::TinyModelOptions& options = {.n_ctx = 512})
        : tiny_model(testing::speaking_model_bytes(options), ".gguf") {
        std::string rules;
        for (int i = 0; i < 8; ++i)
            rules += cat("Rule ", i, ": pay ", i * 7, " in room ", i, ".\n");
        write("rules.txt", rules);
        write("other.txt", "Rule 1: nobody whistles.\nRule 2: everybody sings on Mondays.\n");
        write_traces(24);
    }

    void write_traces(int n) const {
        std::string traces;
        for (int i = 0; i < n; ++i) {
            traces += cat(R"({"prompt": "What does rule )", i, R"( say?", "response": "Pay )",
                          i * 7, ".\"}\n");
        }
        write("traces.jsonl", traces);
    }
    void write(const std::string& name, const std::string& text) const {
        std::ofstream(at(name), std::ios::binary) << text;
    }
    [[nodiscard]] std::string at(const std::string& name) const {
        return (fs::path(work.path()) / name).string();
    }

    using Words = std::vector<std::string>;

    /// The program with the model, on two threads.
    [[nodiscard]] ProgramResult program(Words words, const ProgramOptions& options = {}) const {
        words.insert(words.end(), {"-m", tiny_model.path(), "-t", "2"});
        return run_palimpsest(words, options);
    }
    [[nodiscard]] Words building(const std::string& text, const std::string& out,
                                 const Words& more = {}) const {
        Words words = {"prefix",           "build", "-f",    at(text), "--traces",
                       at("traces.jsonl"), "-o",    at(out), "-k",     "16"};
        words.insert(words.end(), more.begin(), more.end());
        return words;
    }
    void build(const std::string& text, const std::string& out, const Words& more = {}) const {
        const ProgramResult r = program(building(text, out, more));
        ASSERT_EQ(r.status, 0) << r.err;
        EXPECT_NE(r.out.find("E_out"), std::string::npos) << r.out;
        EXPECT_NE(r.out.find("written: "), std::string::npos) << r.out;
        EXPECT_FALSE(fs::exists(at(out) + ".work"));
    }

    testing::TemporaryFolder work;
    const TemporaryFile tiny_model;
};

void expect_says(const ProgramResult& r, const std::string& what) {
    EXPECT_EQ(r.status, 0) << r.err;
    EXPECT_NE(r.out.find(what), std::string::npos) << r.out << r.err;
}

TEST_F(PrefixProgram, BuildsTellsAndVerifies) {
    build("rules.txt", "a.prefix.gguf", {"--whiten", "--lookup", "two-level"});
    const ProgramResult info = run_palimpsest({"prefix", "info", at("a.prefix.gguf")});
    expect_says(info, "rules\n");
    expect_says(info, "16 entries beside 165 kept entries of its own");
    expect_says(info, "whitened");
    expect_says(info, "E_out    E_a    E_l    E_w\n");
    expect_says(info, "lookup two-level: the 16 nearest of 16 lists");
    expect_says(info, "whitened, kept by repetition, seed ");
    const ProgramResult same =
        program({"prefix", "verify", at("a.prefix.gguf"), "--text", at("rules.txt"), "--traces",
                 at("traces.jsonl"), "--most", "3"});
    expect_says(same, "as they were");
    expect_says(same, "built from this text");
    expect_says(same, "errors on 3 traces, ");
    expect_refused(program({"prefix", "verify", at("a.prefix.gguf"), "--text", at("other.txt")}), 2,
                   "not the text");
    const TemporaryFile another(testing::speaking_model_bytes({.n_ctx = 512, .seed = 9}), ".gguf");
    expect_refused(run_palimpsest({"prefix", "verify", at("a.prefix.gguf"), "-m", another.path()}),
                   2, "model, or its quantisation");
}

TEST_F(PrefixProgram, ComposesAndDrops) {
    build("rules.txt", "a.prefix.gguf");
    build("other.txt", "b.prefix.gguf", {"--lookup", "two-level"});
    expect_says(run_palimpsest({"prefix", "compose", at("a.prefix.gguf"), at("b.prefix.gguf"), "-o",
                                at("both.prefix.gguf")}),
                "rules, other");
    const ProgramResult both = run_palimpsest({"prefix", "info", at("both.prefix.gguf")});
    expect_says(both, "lookup linear");
    expect_says(both, "lookup two-level");
    expect_says(
        program({"run", "hello", "-n", "4", "--prefix", at("both.prefix.gguf"), "--report"}), "");
    expect_says(run_palimpsest({"prefix", "compose", at("both.prefix.gguf"), "--drop", "rules",
                                "-o", at("one.prefix.gguf")}),
                "one.prefix.gguf: other\n");
    // What was left out left nothing behind: the file is as if it had never been joined.
    expect_says(
        run_palimpsest({"prefix", "compose", at("b.prefix.gguf"), "-o", at("alone.prefix.gguf")}),
        "other");
    EXPECT_EQ(testing::read_text(at("one.prefix.gguf")),
              testing::read_text(at("alone.prefix.gguf")));
    expect_refused(run_palimpsest({"prefix", "compose", at("a.prefix.gguf"), at("a.prefix.gguf"),
                                   "-o", at("c.prefix.gguf")}),
                   2, "twice");
    expect_refused(run_palimpsest({"prefix", "compose", at("a.prefix.gguf"), "--drop", "rules",
                                   "-o", at("c.prefix.gguf")}),
                   2, "no prefix memory is left");
    EXPECT_FALSE(fs::exists(at("c.prefix.gguf")));
}

TEST_F(PrefixProgram, ChatsOnTopOfIt) {
    build("rules.txt", "a.prefix.gguf", {"--lookup", "two-level"});
    const Words chat = {"chat", "-n", "5", "--temperature", "0"};
    const ProgramOptions talk = {.input = "hello\nand then?\n/reset\nhello\n"};
    Words with = chat;
    with.insert(with.end(), {"--prefix", at("a.prefix.gguf")});
    const ProgramResult r = program(with, talk);
    EXPECT_EQ(r.status, 0) << r.err;
    const ProgramResult again = program(with, talk);
    EXPECT_EQ(r.out, again.out);
    const ProgramResult without = program(chat, talk);
    EXPECT_EQ(without.status, 0) << without.err;
    EXPECT_NE(r.out, without.out) << "the memory says nothing";
    const ProgramResult report =
        program({"run", "hello", "-n", "5", "--prefix", at("a.prefix.gguf"), "--report"});
    EXPECT_EQ(report.status, 0) << report.err;
    EXPECT_NE((report.out + report.err).find("lookups"), std::string::npos) << report.err;
}

TEST_F(PrefixProgram, AsksItselfWhereThereAreNoTraces) {
    const Words study = {
        "prefix", "build", "-f", at("rules.txt"), "-o", at("s.prefix.gguf"), "--self-study",
        "10",     "-k",    "4",  "--force"};
    const ProgramResult r = program(study);
    expect_says(r, "built in ");
    expect_says(r, ": asking itself ");
    int n_kept = 0;  // what it asked, for the next time
    for (const auto& file : fs::directory_iterator(work.path())) {
        if (file.path().string().find(".self_study.") == std::string::npos) continue;
        ++n_kept;
        EXPECT_EQ(std::ranges::count(testing::read_text(file.path().string()), '\n'), 10);
    }
    EXPECT_EQ(n_kept, 1);
    const std::string first = testing::read_text(at("s.prefix.gguf"));
    expect_says(program(study), "written: ");
    EXPECT_EQ(testing::read_text(at("s.prefix.gguf")), first);
}

/// Samples are then requests to it, under every memory; results say so and stand by themselves.
TEST_F(PrefixProgram, QualityIsMeasuredBehindIt) {
    build("rules.txt", "a.prefix.gguf");
    std::string text;
    for (int i = 0; i < 200; ++i) text += cat(i % 7, i % 5 == 0 ? "\n" : " ");
    write("text.txt", text);
    const Words quality = {"bench",        "quality",   "--tasks", "text",    "--text",
                           at("text.txt"), "--lengths", "80",      "-n",      "1",
                           "--ratios",     "0.5",       "-p",      "snap-kv", "-o",
                           at("q.jsonl"),  "-j",        "1"};
    Words behind = quality;
    behind.insert(behind.end(), {"--prefix", at("a.prefix.gguf")});
    const auto says = [&](const Words& words, const std::string& what) {
        const ProgramResult r = program(words);
        EXPECT_EQ(r.status, 0) << r.err;
        EXPECT_NE(r.err.find(what), std::string::npos) << r.err;
    };
    says(behind, "3 results added");
    says(behind, "0 results added");
    says(quality, "3 results added");
    const std::string lines = testing::read_text(at("q.jsonl"));
    EXPECT_NE(lines.find("\"prefix\":\"rules ("), std::string::npos) << lines;
    const ProgramResult report = run_palimpsest({"bench", "report", at("q.jsonl")});
    expect_says(report, " behind rules (");
    Words long_ones = behind;
    long_ones[7] = "500";
    expect_refused(program(long_ones), 2, "behind a prefix of");
}

TEST_F(PrefixProgram, ReadsWhatIsTooLongInPieces) {
    std::string text;
    for (int i = 0; i < 40; ++i) text += cat("Rule ", i, ": pay ", i * 7, " in room ", i, ".\n");
    write("long.txt", text);
    expect_refused(program(building("long.txt", "a.prefix.gguf")), 2, "--chunks 3");
    build("long.txt", "a.prefix.gguf", {"--chunks", "3"});
    const ProgramResult info = run_palimpsest({"prefix", "info", at("a.prefix.gguf")});
    expect_says(info, "in 3 pieces read apart");
    expect_says(program({"prefix", "verify", at("a.prefix.gguf"), "--traces", at("traces.jsonl"),
                         "--most", "2"}),
                "against each of its 3 pieces");
    const ProgramResult r = program({"run", "hello", "-n", "4", "--prefix", at("a.prefix.gguf")});
    EXPECT_EQ(r.status, 0) << r.err;
    expect_refused(
        program(building("long.txt", "b.prefix.gguf", {"--chunks", "3", "--keep-exact"})), 2,
        "--keep-exact");
}

class PrefixProgramDeep : public PrefixProgram {
 protected:
    PrefixProgramDeep() : PrefixProgram({.n_layer = 8, .n_ctx = 512}) { write_traces(160); }
};

TEST_F(PrefixProgramDeep, AnInterruptedBuildGoesOnToTheSameBytes) {
    const Words few = {"--held-out", "4"};
    build("rules.txt", "whole.prefix.gguf", few);
    for (const char* phase : {"following traces", "clustering layers"}) {
        const std::string out = cat(phase, ".prefix.gguf");
        const ProgramResult stopped =
            program(building("rules.txt", out, few), {.interrupt_at = phase});
        EXPECT_EQ(stopped.status, 130);
        EXPECT_NE(stopped.err.find("goes on from here"), std::string::npos) << stopped.err;
        EXPECT_FALSE(fs::exists(at(out)));
        EXPECT_TRUE(fs::exists(at(out) + ".work"));
        build("rules.txt", out, few);
        EXPECT_TRUE(testing::read_text(at(out)) == testing::read_text(at("whole.prefix.gguf")))
            << phase;
    }
}

}  // namespace
}  // namespace palimpsest
