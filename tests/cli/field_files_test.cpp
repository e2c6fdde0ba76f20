// Field cases (what went wrong on inputs like those of public bug reports): files that must not be
// lost, and words that the program must have. Each test is named after its case.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <future>
#include <nlohmann/json.hpp>
#include <set>

#include "bench/quality/quality_result.h"
#include "core/error.h"
#include "support/golden.h"
#include "support/process.h"
#include "support/quality_samples.h"
#include "support/task_files.h"
#include "support/tiny_model.h"

namespace palimpsest {
namespace {

namespace fs = std::filesystem;

using testing::ProgramOptions;
using testing::ProgramResult;
using testing::run_palimpsest;
using Words = std::vector<std::string>;

Words operator+(Words a, const Words& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

void expect_refused(const ProgramResult& r, int status, const std::string& says) {
    EXPECT_EQ(r.status, status) << r.err;
    EXPECT_NE(r.err.find(says), std::string::npos) << r.err;
}

class FieldCases : public ::testing::Test {
 protected:
    FieldCases() {
        write("m.gguf", testing::speaking_model_bytes({.n_ctx = 512}));
        std::string text;
        for (int i = 0; i < 200; ++i) text += cat("Rule ", i, ": pay ", i * i % 97, ". ");
        write("doc.txt", text);
        write("rules.txt", text.substr(0, 300));
        std::string traces;
        for (int i = 0; i < 24; ++i) {
            traces += cat(R"({"prompt": "What does rule )", i, R"( say?", "response": "Pay )",
                          i * 7, ".\"}\n");
        }
        write("traces.jsonl", traces);
        write("results.jsonl", to_json_line(testing::full_result("vt", "0", 1)) + "\n");
        write("tokens.json", "[1, 2, 3]");
    }

    void write(const std::string& name, const std::string& content) { folder.write(name, content); }
    [[nodiscard]] std::string at(const std::string& name) const {
        return (fs::path(folder.path()) / name).string();
    }
    [[nodiscard]] std::string text(const std::string& name) const {
        return testing::read_text(at(name));
    }
    /// The program in the scratch folder, on one thread's worth of work.
    [[nodiscard]] ProgramResult program(const Words& words, ProgramOptions options = {}) const {
        options.folder = folder.path();
        return run_palimpsest(words, options);
    }
    [[nodiscard]] ProgramResult run(const Words& more, const ProgramOptions& options = {}) const {
        return program(Words{"run", "-m", "m.gguf", "-t", "1", "-n", "2", "-q"} + more, options);
    }
    [[nodiscard]] static Words training(const std::string& out) {
        return {"train", "gate",    "-m", "m.gguf",     "-d", "doc.txt", "-o", out,  "--length",
                "32",    "--steps", "4",  "--held-out", "1",  "--mid",   "8",  "-t", "1"};
    }
    [[nodiscard]] static Words building(const std::string& out) {
        return {"prefix",   "build",        "-m", "m.gguf", "-t", "1",  "-f",         "rules.txt",
                "--traces", "traces.jsonl", "-o", out,      "-k", "16", "--held-out", "2"};
    }
    [[nodiscard]] bool has_temporary() const {
        for (const auto& entry : fs::recursive_directory_iterator(folder.path())) {
            if (entry.path().filename().string().find(".partial") != std::string::npos) return true;
        }
        return false;
    }

    testing::TemporaryFolder folder;
};

TEST_F(FieldCases, A1_EmptyTextsOfFlagsAreRefused) {
    for (const char* flag : {"--keep-text", "--stop", "--policy", "--memory-budget",
                             "--grammar-file", "--chat-template", "-f", "--sidecar", "--prefix"}) {
        const ProgramResult r = run({flag, "", "-f", "doc.txt", "hi"},
                                    {.timeout_s = 20, .address_space = uint64_t{3} << 30U});
        expect_refused(r, 2, "empty");
    }
    expect_refused(program({"tokenize", "-m", "", "hi"}), 2, "--model is empty");
    EXPECT_EQ(run({"--system", "", "hi"}).status, 0) << "an empty system text says something";
}

TEST_F(FieldCases, A2_OutputsThatAreNoRegularFilesAreWrittenThrough) {
    // A link stays a link, and what it leads to is replaced.
    write("real.jsonl", "old");
    fs::create_symlink("real.jsonl", at("link"));
    ASSERT_EQ(program({"train-data", "--documents", "2", "-o", "link"}).status, 0);
    EXPECT_TRUE(fs::is_symlink(at("link")));
    EXPECT_NE(text("real.jsonl"), "old");
    // So does one that leads to nothing yet.
    fs::create_symlink("new.jsonl", at("dangling"));
    ASSERT_EQ(program({"train-data", "--documents", "2", "-o", "dangling"}).status, 0);
    EXPECT_TRUE(fs::is_symlink(at("dangling")));
    EXPECT_EQ(text("new.jsonl"), text("real.jsonl"));
    // A named pipe carries it.
    ASSERT_EQ(mkfifo(at("pipe").c_str(), 0600), 0);
    auto read = std::async(std::launch::async, [&] { return text("pipe"); });
    EXPECT_EQ(program({"train-data", "--documents", "2", "-o", "pipe"}).status, 0);
    EXPECT_EQ(read.get(), text("real.jsonl"));
    EXPECT_TRUE(fs::is_fifo(at("pipe")));
    // /dev/stdout is where the output goes.
    const ProgramResult r = program({"train-data", "--documents", "2", "-o", "/dev/stdout"});
    EXPECT_EQ(r.out, text("real.jsonl")) << r.err;
}

TEST_F(FieldCases, A2_DevicesStayDevices) {
    if (mknod(at("node").c_str(), S_IFCHR | 0666, makedev(1, 3)) != 0) {
        GTEST_SKIP() << "only root makes devices";
    }
    const ProgramOptions quick = {.timeout_s = 60};
    EXPECT_EQ(program({"train-data", "--documents", "2", "-o", "node"}, quick).status, 0);
    expect_refused(program(training("node"), quick), 2, "no regular file");
    EXPECT_EQ(program({"trace", "-m", "m.gguf", "--tokens", "tokens.json", "-o", "node"}).status,
              0);
    EXPECT_EQ(run({"--report-json", "node", "hi"}).status, 0);
    EXPECT_TRUE(fs::is_character_file(at("node")));
}

TEST_F(FieldCases, A2_FoldersAreRefused) {
    expect_refused(program({"train-data", "--documents", "2", "-o", "."}), 74, "directory");
}

TEST_F(FieldCases, A2_ModesStay) {
    write("private.jsonl", "old");
    fs::permissions(at("private.jsonl"), fs::perms::owner_read | fs::perms::owner_write);
    ASSERT_EQ(program({"train-data", "--documents", "2", "-o", "private.jsonl"}).status, 0);
    EXPECT_EQ(fs::status(at("private.jsonl")).permissions(),
              fs::perms::owner_read | fs::perms::owner_write);
}

TEST_F(FieldCases, A3_OutputsThatAreInputsAreRefused) {
    const std::string model = text("m.gguf");
    const std::string document = text("doc.txt");
    fs::create_symlink("m.gguf", at("link.gguf"));
    fs::create_hard_link(at("m.gguf"), at("hard.gguf"));
    const std::vector<Words> commands = {
        {"trace", "-m", "m.gguf", "-f", "doc.txt", "-o", "m.gguf"},
        {"trace", "-m", "m.gguf", "-f", "doc.txt", "-o", "doc.txt"},
        {"trace", "-m", "m.gguf", "-f", "doc.txt", "-o", "./link.gguf"},
        {"trace", "-m", "link.gguf", "-f", "doc.txt", "-o", "hard.gguf"},
        {"trace", "-m", "m.gguf", "--tokens", "tokens.json", "-o", "tokens.json"},
        training("m.gguf"),
        training("doc.txt"),
        building("m.gguf"),
        building("link.gguf"),
        {"run", "-m", "m.gguf", "-n", "1", "--report-json", "m.gguf", "hi"},
        {"run", "-m", "m.gguf", "-n", "1", "-f", "doc.txt", "--report-json", "doc.txt", "hi"},
        {"bench", "quality", "-m", "m.gguf", "-o", "m.gguf"},
        {"bench", "quality", "-m", "m.gguf", "--tasks", "text", "--text", "doc.txt", "-o",
         "doc.txt"},
        {"bench", "prefix", "-m", "m.gguf", "-o", "m.gguf"},
        {"bench", "report", "results.jsonl", "--markdown", "results.jsonl"},
        {"bench", "report", "results.jsonl", "--html", "a", "--markdown", "./a"},
        {"train-data", "--texts", ".", "--text-share", "1", "-o", "doc.txt"},
        {"prefix", "compose", "m.gguf", "-o", "m.gguf"}};
    for (const Words& words : commands) {
        const ProgramResult r = program(words);
        expect_refused(r, 2, "; ");
        EXPECT_EQ(r.out, "");
    }
    EXPECT_TRUE(text("m.gguf") == model);
    EXPECT_TRUE(text("doc.txt") == document);
    // The default model is an input that no flag names.
    expect_refused(program({"trace", "-f", "doc.txt", "-o", "m.gguf"},
                           {.environment = {"PALIMPSEST_MODEL=m.gguf"}}),
                   2, "the model");
    // So are standard input and what a chat reads.
    expect_refused(program({"chat", "-m", "m.gguf", "-n", "1"}, {.input = "/save m.gguf\n"}), 2,
                   "/save");
    EXPECT_TRUE(text("m.gguf") == model);
}

TEST_F(FieldCases, A3_AFileNamedTwiceIsRefused) {
    expect_refused(run({"-f", "doc.txt", "-f", "./doc.txt", "hi"}), 2, "twice");
    expect_refused(program({"bench", "report", "results.jsonl", "results.jsonl"}), 2, "twice");
}

/// Holds a lock as another process would.
class Held {
 public:
    explicit Held(const std::string& path, int way = O_RDONLY) : fd_(open(path.c_str(), way)) {
        EXPECT_EQ(flock(fd_, LOCK_EX), 0) << path;
    }
    ~Held() { close(fd_); }
    Held(const Held&) = delete;
    Held& operator=(const Held&) = delete;

 private:
    int fd_;
};

TEST_F(FieldCases, A4_TwoBuildsInOneFolderSayWhoHasIt) {
    fs::create_directory(at("a.prefix.gguf.work"));
    const Held other(at("a.prefix.gguf.work"), O_RDONLY | O_DIRECTORY);
    expect_refused(program(building("a.prefix.gguf")), 2, cat("in use by process ", getpid()));
    EXPECT_FALSE(fs::exists(at("a.prefix.gguf")));
}

TEST_F(FieldCases, A4_TwoBuildsAtOnceAreOneOrTheOther) {
    const auto build = [&] { return program(building("a.prefix.gguf")); };
    auto one = std::async(std::launch::async, build);
    auto two = std::async(std::launch::async, build);
    const std::set<int> ends = {one.get().status, two.get().status};
    EXPECT_TRUE(ends == std::set<int>({0}) || ends == std::set<int>({0, 2}));
    EXPECT_EQ(program({"prefix", "info", "a.prefix.gguf"}).status, 0);
    EXPECT_FALSE(has_temporary());
}

/// Work of a build that was stopped at `phase`.
class A4Damage : public FieldCases {
 protected:
    A4Damage() {
        write("deep.gguf", testing::speaking_model_bytes({.n_layer = 8, .n_ctx = 512}));
        std::string traces;
        for (int i = 0; i < 160; ++i) {
            traces += cat(R"({"prompt": "What does rule )", i, R"( say?", "response": "Pay )",
                          i * 7, ".\"}\n");
        }
        write("traces.jsonl", traces);
    }
    [[nodiscard]] static Words deep(const std::string& out) {
        Words words = building(out);
        words[3] = "deep.gguf";
        return words;
    }
    void stop_at(const std::string& phase) {
        const ProgramResult r = program(deep("a.prefix.gguf"), {.interrupt_at = phase});
        ASSERT_EQ(r.status, 130) << r.err;
        ASSERT_TRUE(fs::exists(at("a.prefix.gguf.work")));
    }
    void expect_made_anew(const std::string& damaged) {
        const ProgramResult r = program(deep("a.prefix.gguf"));
        EXPECT_EQ(r.status, 0) << r.err;
        EXPECT_NE(r.err.find(damaged), std::string::npos) << r.err;
        ASSERT_EQ(program(deep("whole.prefix.gguf")).status, 0);
        EXPECT_TRUE(text("a.prefix.gguf") == text("whole.prefix.gguf"));
    }
    /// Every file of the work with this in its name.
    [[nodiscard]] std::vector<fs::path> work(const std::string& part) const {
        std::vector<fs::path> found;
        for (const auto& e : fs::recursive_directory_iterator(at("a.prefix.gguf.work"))) {
            const std::string path = e.path().string();
            if (e.is_regular_file() && path.find(part) != std::string::npos) found.push_back(path);
        }
        std::ranges::sort(found);
        return found;
    }
};

TEST_F(A4Damage, A4_RandomRecordsAreMadeAnewByName) {
    stop_at("clustering layers");
    const auto records = work("layer_0.records");
    ASSERT_EQ(records.size(), 1U);
    std::string noise(fs::file_size(records[0]), '\0');
    uint32_t state = 1;
    for (char& c : noise) c = static_cast<char>((state = state * 1664525U + 1013904223U) >> 24U);
    std::ofstream(records[0], std::ios::binary) << noise;
    for (const fs::path& book : work("books_")) fs::remove(book);
    expect_made_anew("layer_0.records' is damaged from trace 1");
}

TEST_F(A4Damage, A4_HalfADictionaryIsMadeAnewByName) {
    stop_at("clustering layers: ");  // hence all of them are there
    const auto books = work("/layer_0_0");
    if (books.empty()) GTEST_SKIP() << "it ended before anything was clustered";
    fs::resize_file(books[0], fs::file_size(books[0]) / 2);
    expect_made_anew("layer_0_0' is damaged");
}

TEST_F(A4Damage, A4_AFlippedByteOfWhatWasReadIsFound) {
    stop_at("following traces");
    for (const char* name : {"piece_0.entries", "weights_by_repetition"}) {
        for (const fs::path& path : work(name)) {
            std::string bytes = testing::read_text(path);
            bytes[bytes.size() / 2] ^= 1;
            std::ofstream(path, std::ios::binary) << bytes;
        }
    }
    ASSERT_FALSE(work("piece_0.entries").empty());
    expect_made_anew("piece_0.entries' is damaged");
}

TEST_F(FieldCases, A4_AFolderOfOtherThingsIsNotCleared) {
    fs::create_directory(at("a.prefix.gguf.work"));
    write("a.prefix.gguf.work/thesis.tex", "years of work");
    expect_refused(program(building("a.prefix.gguf")), 2, "thesis.tex");
    EXPECT_EQ(text("a.prefix.gguf.work/thesis.tex"), "years of work");
}

TEST_F(FieldCases, A4_ADamagedCheckpointBeginsAnewByName) {
    ASSERT_EQ(program(training("g.gguf")).status, 0);
    const std::string whole = text("g.gguf");
    std::string bytes = text("g.checkpoint");
    for (const size_t n : {bytes.size() / 2, size_t{10}}) {
        write("g.checkpoint", bytes.substr(0, n));
        const ProgramResult r = program(training("g.gguf") + Words{"--resume"});
        expect_refused(r, 0, "g.checkpoint");
        EXPECT_NE(r.err.find("begins anew"), std::string::npos) << r.err;
        EXPECT_TRUE(text("g.gguf") == whole);
    }
    bytes[bytes.size() / 2] ^= 1;  // of a number of a tensor
    write("g.checkpoint", bytes);
    expect_refused(program(training("g.gguf") + Words{"--resume"}), 0, "begins anew");
    // Another file by this name is none of ours.
    write("g.checkpoint", text("m.gguf"));
    expect_refused(program(training("g.gguf") + Words{"--resume"}), 2, "no checkpoint");
    EXPECT_TRUE(text("g.checkpoint") == text("m.gguf"));
}

TEST_F(FieldCases, A5_ResultsAreOneRunsAtATime) {
    write("q.jsonl", "");
    const Held other(at("q.jsonl"));
    const Words words = {"bench", "quality", "-m",        "m.gguf", "--tasks", "niah_single_2",
                         "-n",    "1",       "--lengths", "300",    "-o",      "q.jsonl"};
    expect_refused(program(words), 2, cat("'q.jsonl' is in use by process ", getpid()));
    EXPECT_EQ(text("q.jsonl"), "");
}

TEST_F(FieldCases, A5_ATrainingsFilesAreOneRunsAtATime) {
    write("g.log.jsonl", "");
    const Held other(at("g.log.jsonl"));
    expect_refused(program(training("g.gguf")), 2, cat("in use by process ", getpid()));
    EXPECT_FALSE(fs::exists(at("g.gguf")));
}

TEST_F(FieldCases, A5_EachResultComesOnce) {
    write("ruler/300/niah_single_2.jsonl",
          R"({"input": "The number for tea is: 4711.\nWhat is it?", "outputs": ["4711"], )"
          R"("answer_prefix": " It is"})"
          "\n");
    const Words words = {"bench",
                         "quality",
                         "-m",
                         "m.gguf",
                         "--tasks",
                         "niah_single_2",
                         "--ruler-samples",
                         "ruler",
                         "-n",
                         "1",
                         "--lengths",
                         "300",
                         "-o",
                         "q.jsonl",
                         "-t",
                         "1",
                         "--no-template"};
    const auto measure = [&] { return program(words); };
    auto one = std::async(std::launch::async, measure);
    auto two = std::async(std::launch::async, measure);
    const ProgramResult a = one.get();
    const ProgramResult b = two.get();
    EXPECT_TRUE(a.status == 0 || b.status == 0) << a.err << b.err;
    std::set<std::string> keys;
    const auto results = read_quality_results(text("q.jsonl"), "q.jsonl");
    for (const QualityResult& r : results) EXPECT_TRUE(keys.insert(r.key()).second) << r.key();
    EXPECT_FALSE(results.empty());
}

TEST_F(FieldCases, C3_TheQuestionOfASampleIsFoundOrRefused) {
    const auto sample = [](const std::string& input) {
        return nlohmann::json{{"index", 0},
                              {"input", input},
                              {"outputs", {"4711"}},
                              {"length", 300},
                              {"answer_prefix", " The number is"}}
                   .dump() +
               "\n";
    };
    const std::string context = "Magic numbers are hidden.\nThe number for tea is: 4711.";
    const std::string question = "What is the number for tea?";
    const auto measure = [&](const std::string& input) {
        write("ruler/300/niah_single_2.jsonl", sample(input));
        fs::remove(at("q.jsonl"));
        return program({"bench", "quality", "-m", "m.gguf", "-n", "1", "--lengths", "300",
                        "--ruler-samples", "ruler", "--tasks", "niah_single_2", "-o", "q.jsonl",
                        "--no-template"});
    };
    ASSERT_EQ(measure(context + "\n" + question).status, 0);
    const std::string prompt = read_quality_results(text("q.jsonl"), "q").front().prompt;
    for (const char* end : {"\n", "\r\n", "\r", "\n\n  \n", " \t"}) {
        const ProgramResult r = measure(context + "\n" + question + end);
        ASSERT_EQ(r.status, 0) << r.err;
        EXPECT_EQ(read_quality_results(text("q.jsonl"), "q").front().prompt, prompt);
    }
    for (const char* end :
         {"<|im_end|>\n<|im_start|>assistant\n", " [/INST]", "<|eot_id|>",
          "\nAssistant:", "<end_of_turn>\n<start_of_turn>model\n", " ASSISTANT:", "</s>"}) {
        expect_refused(measure(context + "\n" + question + end), 4, "niah_single_2.jsonl', line 1");
    }
    expect_refused(measure("no line break at all"), 4, "line 1");
    expect_refused(measure("\n \nWhat?"), 4, "line 1");
}

TEST_F(FieldCases, C5_AnInterruptedRunCountsWhatItRead) {
    write("patient.gguf", testing::speaking_model_bytes({.n_layer = 8, .n_ctx = 1 << 22}));
    write("long.txt", std::string(1 << 20, 'x'));
    const ProgramResult r = program(
        {"run", "-m", "patient.gguf", "--json", "--chunk", "64", "-t", "1", "-f", "long.txt", "hi"},
        {.interrupt_after_s = 4});
    ASSERT_EQ(r.status, 130) << r.err;
    const auto told = nlohmann::json::parse(r.out);
    const auto read = told["prompt_tokens_read"].get<int64_t>();
    EXPECT_LT(read, told["prompt_tokens"].get<int64_t>());
    EXPECT_EQ(read, told["memory"]["positions_seen"].get<int64_t>());
    const double seconds = told["time_to_first_token_s"].get<double>();
    EXPECT_NEAR(told["prefill_tokens_per_s"].get<double>(), static_cast<double>(read) / seconds, 1);
}

TEST_F(FieldCases, F2_AnEmptyGrammarIsRefused) {
    write("empty.gbnf", " \n");
    expect_refused(run({"--grammar-file", "empty.gbnf", "hi"}), 2, "empty");
}

TEST_F(FieldCases, F3_CommandsOfAChatMayEndInACarriageReturn) {
    const ProgramResult r =
        program({"chat", "-m", "m.gguf", "-n", "2"}, {.input = "hello\r\n/quit\r\nnever read\r\n"});
    EXPECT_EQ(r.status, 0) << r.err;
    EXPECT_EQ(r.err.find("no such command"), std::string::npos) << r.err;
}

TEST_F(FieldCases, F4_FlagsWithoutEffectTogetherAreRefused) {
    expect_refused(run({"--raw", "--system", "X", "--chat-template", "chatml", "hi"}), 2, "--raw");
    expect_refused(run({"--raw", "--system", "X", "hi"}), 2, "--system");
    expect_refused(run({"--raw", "--chat-template", "chatml", "hi"}), 2, "--chat-template");
    expect_refused(run({"--prefix-gate", "hi"}), 2, "--prefix");
    expect_refused(run({"--eviction-interval", "16", "hi"}), 2, "--memory-budget");
    expect_refused(
        program({"trace", "-m", "m.gguf", "--tokens", "tokens.json", "--replace-invalid-utf8"}), 2,
        "--replace-invalid-utf8");
    expect_refused(program({"tokenize", "-m", "m.gguf", "--json", "--count", "hi"}), 2, "--json");
    expect_refused(program({"prefix", "verify", "x.prefix.gguf", "--most", "3"}), 2, "--traces");
}

TEST_F(FieldCases, F5_AnEmptyQuestionDoesNotWait) {
    const ProgramOptions at_terminal = {.timeout_s = 20, .in_is_terminal = true};
    expect_refused(run({""}, at_terminal), 2, "write a question after 'run'");
    expect_refused(run({}, at_terminal), 2, "write a question after 'run'");
    expect_refused(run({"", " "}, {.input = "a question\n"}), 2, "write a question after 'run'");
    expect_refused(program({"tokenize", "-m", "m.gguf"}, at_terminal), 2, "after 'tokenize'");
}

TEST_F(FieldCases, F5_WithoutACommandItSaysWhatToType) {
    expect_refused(program({}), 2, "palimpsest run 'Name three rivers.'");
    expect_refused(program({"Name three rivers."}), 2, "palimpsest run 'Name three rivers.'");
    expect_refused(program({"rnu", "hi"}), 2, "did you mean 'run'");
}

TEST_F(FieldCases, F5_APrefixNamedTwiceIsRefused) {
    ASSERT_EQ(program(building("a.prefix.gguf")).status, 0);
    expect_refused(run({"--prefix", "a.prefix.gguf", "--prefix", "a.prefix.gguf", "hi"}), 2,
                   "twice");
}

TEST_F(FieldCases, F5_WhatWasBuiltIsThereThoughNobodyHearsOfIt) {
    const ProgramResult r = program(building("a.prefix.gguf"), {.out_path = "/dev/full"});
    expect_refused(r, 74, "cannot write the output");
    EXPECT_EQ(program({"prefix", "info", "a.prefix.gguf"}).status, 0);
    EXPECT_FALSE(fs::exists(at("a.prefix.gguf.work")));
}

TEST_F(FieldCases, F5_OutputsToAFullDeviceSayIt) {
    expect_refused(program({"train-data", "--documents", "2", "-o", "/dev/full"}), 74, "/dev/full");
    expect_refused(run({"--report-json", "/dev/full", "hi"}), 74, "/dev/full");
    expect_refused(program({"bench", "report", "results.jsonl", "--html", "/dev/full"}), 74,
                   "/dev/full");
}

/// From where the program cannot even be loaded to where it works.
TEST_F(FieldCases, F5_LittleMemoryEndsWithItsStatus) {
    int n_short = 0;
    bool has_worked = false;
    for (uint64_t mb = 40; mb < 1000 && !has_worked; mb += mb < 200 ? 10 : 40) {
        const ProgramResult r =
            program({"run", "-m", "m.gguf", "-n", "2", "hi"}, {.address_space = mb << 20U});
        const bool is_loaded = r.err.find("shared librar") == std::string::npos &&
                               !(r.status == 127) && !(r.err.empty() && r.status != 0);
        if (!is_loaded) continue;
        has_worked = r.status == 0;
        n_short += r.status == 6 ? 1 : 0;
        EXPECT_TRUE(r.status == 0 || r.status == 6) << mb << " MB: " << r.status << ": " << r.err;
    }
    EXPECT_TRUE(has_worked);
    EXPECT_GT(n_short, 0);
}

}  // namespace
}  // namespace palimpsest
