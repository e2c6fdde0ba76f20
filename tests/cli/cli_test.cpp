// The program itself: what it prints where, and how it ends.

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "support/gguf_builder.h"
#include "support/golden.h"
#include "support/process.h"
#include "support/sidecar.h"
#include "support/tiny_model.h"

namespace palimpsest {
namespace {

using nlohmann::json;
using testing::ProgramResult;
using testing::run_palimpsest;
using testing::TemporaryFile;

#define EXPECT_SAYS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

/// It failed with this status and one sentence, and printed nothing else.
void expect_failure(const ProgramResult& r, int status, const std::string& says) {
    EXPECT_EQ(r.status, status) << r.err;
    EXPECT_EQ(r.out, "");
    EXPECT_TRUE(r.err.starts_with("palimpsest: ")) << r.err;
    EXPECT_SAYS(r.err, says);
}

/// A tiny model with a vocabulary: it answers nonsense, and at once.
std::string speaking_model() {
    testing::GgufBuilder f = testing::tiny_llama(testing::kTinyBpeTokens);
    testing::add_bpe_vocabulary(f);
    return f.bytes();
}

class Cli : public ::testing::Test {
 public:
    const TemporaryFile model{speaking_model(), ".gguf"};
    const TemporaryFile mute{testing::tiny_llama().bytes(), ".gguf"};
};

TEST_F(Cli, HelpGoesToStandardOutput) {
    const ProgramResult r = run_palimpsest({"--help"});
    EXPECT_EQ(r.status, 0);
    EXPECT_EQ(r.err, "");
    for (const char* part : {"run", "chat", "inspect", "tokenize", "bench", "trace", "Exit status"})
        EXPECT_SAYS(r.out, part);
}

TEST_F(Cli, HelpOfACommandListsItsFlags) {
    const ProgramResult r = run_palimpsest({"run", "--help"});
    EXPECT_EQ(r.status, 0);
    EXPECT_SAYS(r.out, "--temperature");
}

TEST_F(Cli, WithoutACommandFails) { expect_failure(run_palimpsest({}), 2, "--help"); }

TEST_F(Cli, UnknownCommandFails) { expect_failure(run_palimpsest({"dance"}), 2, "--help"); }

TEST_F(Cli, UnknownFlagFails) {
    expect_failure(run_palimpsest({"run", "--dance", "x"}), 2, "--dance");
}

TEST_F(Cli, MissingModelFails) {
    expect_failure(run_palimpsest({"run", "-m", "no/such.gguf", "x"}), 3, "no/such.gguf");
}

TEST_F(Cli, MissingDefaultModelSaysHowToGetIt) {
    expect_failure(run_palimpsest({"run", "x"}, {.environment = {"PALIMPSEST_MODEL=no/such"}}), 3,
                   "make setup");
}

TEST_F(Cli, DirectoryAsModelFails) {
    expect_failure(run_palimpsest({"inspect", "-m", "/"}), 3, "directory");
}

TEST_F(Cli, MissingDocumentFails) {
    expect_failure(run_palimpsest({"run", "-m", model.path(), "-f", "no/such.txt", "x"}), 3,
                   "no/such.txt");
}

TEST_F(Cli, DirectoryAsDocumentFails) {
    expect_failure(run_palimpsest({"run", "-m", model.path(), "-f", "/", "x"}), 3, "directory");
}

TEST_F(Cli, UnreadableModelFails) {
    if (geteuid() == 0) GTEST_SKIP() << "root may read everything";
    chmod(model.path().c_str(), 0);
    expect_failure(run_palimpsest({"inspect", model.path()}), 3, "ermission");
}

TEST_F(Cli, DamagedModelFails) {
    const TemporaryFile cut(speaking_model().substr(0, 5000), ".gguf");
    expect_failure(run_palimpsest({"run", "-m", cut.path(), "x"}), 4, cut.path());
}

TEST_F(Cli, EmptyModelFails) {
    const TemporaryFile empty("", ".gguf");
    expect_failure(run_palimpsest({"inspect", empty.path()}), 4, "empty");
}

TEST_F(Cli, UnsupportedFamilyIsNamedAndTheOthersListed) {
    testing::GgufBuilder f = testing::tiny_llama();
    f.set_text("general.architecture", "mamba");
    const TemporaryFile file(f.bytes(), ".gguf");
    const ProgramResult r = run_palimpsest({"inspect", file.path()});
    expect_failure(r, 5, "mamba");
    EXPECT_SAYS(r.err, "qwen3");
}

TEST_F(Cli, ModelWithoutVocabularyCannotAnswer) {
    expect_failure(run_palimpsest({"run", "-m", mute.path(), "x"}), 5, "no vocabulary");
}

TEST_F(Cli, ModelWithoutVocabularyCannotTokenize) {
    expect_failure(run_palimpsest({"tokenize", "-m", mute.path(), "x"}), 5, "no vocabulary");
}

TEST_F(Cli, AnswerGoesToStandardOutput) {
    const ProgramResult r = run_palimpsest({"run", "-m", model.path(), "-n", "4", "hello"});
    EXPECT_EQ(r.status, 0) << r.err;
    EXPECT_TRUE(r.out.ends_with("\n"));
    EXPECT_SAYS(r.err, "tokens read");
}

TEST_F(Cli, QuietRunPrintsNoFigures) {
    EXPECT_EQ(run_palimpsest({"run", "-q", "-m", model.path(), "-n", "4", "hello"}).err, "");
}

TEST_F(Cli, AnswerAsJsonHasItsFigures) {
    const ProgramResult r =
        run_palimpsest({"run", "--json", "-m", model.path(), "-n", "4", "hello"});
    ASSERT_EQ(r.status, 0) << r.err;
    const json answer = json::parse(r.out);
    EXPECT_GT(answer["prompt_tokens"], 0);
    EXPECT_TRUE(answer["text"].is_string());
}

TEST_F(Cli, QuestionMayComeFromAPipe) {
    EXPECT_EQ(run_palimpsest({"run", "-m", model.path(), "-n", "2"}, {.input = "hello"}).status, 0);
}

TEST_F(Cli, EmptyPromptFails) {
    expect_failure(run_palimpsest({"run", "-m", model.path(), " "}), 2, "empty");
    expect_failure(run_palimpsest({"run", "-m", model.path()}), 2, "empty");
}

TEST_F(Cli, LongPromptFailsWithBothNumbers) {
    const ProgramResult r =
        run_palimpsest({"run", "--raw", "-m", model.path(), "-c", "100", std::string(300, 'x')});
    expect_failure(r, 6, "300 tokens");
    EXPECT_SAYS(r.err, "room for 100");
}

TEST_F(Cli, InvalidUtf8FailsWithItsPlace) {
    expect_failure(run_palimpsest({"run", "-m", model.path(), "ab\xFF"}), 2, "byte 2");
    const TemporaryFile document("one\ntwo\n\xC3(");
    expect_failure(run_palimpsest({"run", "-m", model.path(), "-f", document.path(), "x"}), 2,
                   "(line 3)");
}

TEST_F(Cli, InvalidUtf8CanBeReplaced) {
    EXPECT_EQ(
        run_palimpsest({"run", "-m", model.path(), "-n", "1", "--replace-invalid-utf8", "ab\xFF"})
            .status,
        0);
}

TEST_F(Cli, BytesWithoutATokenFailOrAreReplaced) {
    testing::GgufBuilder f = testing::tiny_llama(testing::kTinyBpeTokens);
    testing::add_bpe_vocabulary(f, "\x16");
    const TemporaryFile lacking(f.bytes(), ".gguf");
    const TemporaryFile document("one\ntwo\x16");
    const std::vector<std::string> flags = {"run", "-m", lacking.path(),  "-n",
                                            "1",   "-f", document.path(), "x"};
    expect_failure(run_palimpsest(flags), 5, "0x16, byte 7 (line 2)");
    std::vector<std::string> replacing = flags;
    replacing.emplace_back("--replace-invalid-utf8");
    EXPECT_EQ(run_palimpsest(replacing).status, 0);
    const ProgramResult r = run_palimpsest({"tokenize", "--count", "--replace-invalid-utf8", "-m",
                                            lacking.path(), "-f", document.path()});
    EXPECT_EQ(r.out, "10\n") << r.err;
}

TEST_F(Cli, FullDiskFails) {
    const ProgramResult r = run_palimpsest({"inspect", model.path()}, {.out_path = "/dev/full"});
    expect_failure(r, 74, "cannot write the output");
}

TEST_F(Cli, FullDiskFailsForATraceToAFile) {
    const TemporaryFile tokens("[1,2,3]");
    expect_failure(
        run_palimpsest({"trace", "-m", mute.path(), "--tokens", tokens.path(), "-o", "/dev/full"}),
        74, "/dev/full");
}

TEST_F(Cli, ClosedPipeFails) {
    expect_failure(run_palimpsest({"inspect", model.path()}, {.out_closed = true}), 74,
                   "cannot write the output");
    expect_failure(run_palimpsest({"run", "-m", model.path(), "x"}, {.out_closed = true}), 74,
                   "cannot write the output");
    expect_failure(run_palimpsest({"--help"}, {.out_closed = true}), 74, "cannot write the output");
}

TEST_F(Cli, InspectAsJsonHasTheFactsOfTheFile) {
    const ProgramResult r = run_palimpsest({"inspect", "--json", mute.path()});
    ASSERT_EQ(r.status, 0) << r.err;
    const json facts = json::parse(r.out);
    EXPECT_EQ(facts["architecture"], "llama");
    EXPECT_EQ(facts["layers"], 2);
    EXPECT_EQ(facts["tokenizer"], nullptr);
    EXPECT_EQ(facts["entries"]["f16"]["bytes_per_token"], 2 * 2 * 16 * 2);
}

TEST_F(Cli, InspectCountsStatesApartFromEntries) {
    const auto facts_of = [](const char* architecture) {
        const TemporaryFile file(
            testing::speaking_model_bytes({.architecture = architecture, .n_layer = 4}), ".gguf");
        const ProgramResult r = run_palimpsest({"inspect", "--json", file.path()});
        EXPECT_EQ(r.status, 0) << r.err;
        return json::parse(r.out);
    };
    const json hybrid = facts_of("qwen35");
    EXPECT_EQ(hybrid["attending_layers"], 2);
    EXPECT_EQ(hybrid["entries"]["f16"]["bytes_per_token"], 2 * 2 * 2 * 16 * 2);
    EXPECT_GT(hybrid["state_bytes"], 0);
    const json recurrent = facts_of("mamba2");
    EXPECT_EQ(recurrent["attending_layers"], 0);
    EXPECT_EQ(recurrent["entries"], json::object());
    EXPECT_GT(recurrent["state_bytes"], 0);
}

TEST_F(Cli, RecurrentModelsAreRefusedWithASentenceWhereAllLayersMustAttend) {
    for (const char* architecture : {"mamba2", "qwen35"}) {
        SCOPED_TRACE(architecture);
        const TemporaryFile file(testing::speaking_model_bytes({.architecture = architecture}),
                                 ".gguf");
        const TemporaryFile text(std::string("hello hello hello"));
        const TemporaryFile out(std::string(), ".prefix.gguf");
        expect_failure(run_palimpsest({"prefix", "build", "-m", file.path(), "-f", text.path(),
                                       "--self-study", "4", "-o", out.path()}),
                       5, "layers all attend");
    }
}

TEST_F(Cli, ABankOfStatesAnswersAsOneStateAndReportsChanges) {
    testing::TemporaryFolder folder;
    std::string text;
    for (int i = 0; i < 40; ++i) text += cat("hello ", i, ". ");
    const std::string document = folder.write("doc.txt", text);
    const std::string report = folder.path() + "/report.json";
    for (const char* architecture : {"mamba2", "qwen35", "granitehybrid"}) {
        SCOPED_TRACE(architecture);
        const std::string made = folder.write(
            "m.gguf", testing::speaking_model_bytes(
                          {.architecture = architecture, .n_layer = 4, .n_ctx = 1024}));
        std::vector<std::string> command = {"run",    "-m",           made, "-f",
                                            document, "--max-tokens", "8",  "--report-json",
                                            report,   "hello?"};
        const ProgramResult single = run_palimpsest(command);
        ASSERT_EQ(single.status, 0) << single.err;
        EXPECT_FALSE(testing::read_json(report).contains("states"));
        command.insert(command.end(), {"--bank", "dla:threshold=0.9", "--states", "6"});
        const ProgramResult banked = run_palimpsest(command);
        ASSERT_EQ(banked.status, 0) << banked.err;
        EXPECT_EQ(banked.out, single.out);
        const json states = testing::read_json(report)["states"];
        EXPECT_EQ(states["bank"], "dla");
        EXPECT_EQ(states["states_a_head"], 6);
        EXPECT_GT(states["held"], 1);
        EXPECT_LE(states["held"], 6);
        EXPECT_GT(states["boundary_rate"], 0);
        EXPECT_GT(states["changes"].size(), 1U);
        EXPECT_EQ(states["changes"][0]["position"], 0);
        EXPECT_EQ(states["changes"][0]["share"], 1);
        int64_t n = 0;
        for (const json& length : states["lengths"]) n += length.get<int64_t>();
        EXPECT_NEAR(static_cast<double>(n),
                    states["held"].get<double>() * states["heads"].get<double>(), 0.5);
    }
}

TEST_F(Cli, ABankOfStatesIsRefusedWhereItCannotBe) {
    expect_failure(run_palimpsest({"run", "-m", model.path(), "--bank", "dla", "hello"}), 2,
                   "recurrent layers");
    const TemporaryFile recurrent(testing::speaking_model_bytes({.architecture = "mamba2"}),
                                  ".gguf");
    const auto run = [&](std::vector<std::string> flags) {
        std::vector<std::string> all = {"run", "-m", recurrent.path(), "hello"};
        all.insert(all.end(), flags.begin(), flags.end());
        return run_palimpsest(all);
    };
    expect_failure(run({"--bank", "dlas"}), 3, "did you mean 'dla'");
    expect_failure(run({"--bank", "dla:stats=4"}), 2, "stats");
    expect_failure(run({"--states", "4"}), 2, "--bank dla");
    expect_failure(run({"--bank", "dla", "--threshold", "many"}), 2, "threshold");
}

TEST_F(Cli, TokenizeAsJsonIsWhatTraceReads) {
    const ProgramResult ids = run_palimpsest({"tokenize", "--json", "-m", model.path(), "hell"});
    ASSERT_EQ(ids.status, 0) << ids.err;
    EXPECT_EQ(json::parse(ids.out), json::array({258}));
    const TemporaryFile tokens(ids.out);
    EXPECT_EQ(run_palimpsest({"trace", "-m", model.path(), "--tokens", tokens.path()}).status, 0);
}

TEST_F(Cli, TokenizeCounts) {
    EXPECT_EQ(run_palimpsest({"tokenize", "--count", "-m", model.path(), "xyz"}).out, "3\n");
}

TEST_F(Cli, TraceOfTheLastPositionHasOneRow) {
    const TemporaryFile tokens("[1, 2, 3]");
    const ProgramResult r = run_palimpsest({"trace", "-m", mute.path(), "--tokens", tokens.path()});
    ASSERT_EQ(r.status, 0) << r.err;
    const json trace = json::parse(r.out);
    EXPECT_EQ(trace["tokens"], 3);
    EXPECT_EQ(trace["logits"]["positions"], json::array({2}));
    ASSERT_EQ(trace["logits"]["rows"].size(), 1U);
    EXPECT_EQ(trace["logits"]["rows"][0].size(), 40U);
    EXPECT_EQ(trace["compressions"], json::array());
}

TEST_F(Cli, TraceOfAllPositionsHasARowForEach) {
    const TemporaryFile tokens("[1, 2, 3]");
    const TemporaryFile out("");
    const ProgramResult r = run_palimpsest({"trace", "-m", mute.path(), "--tokens", tokens.path(),
                                            "--logits", "all", "--out", out.path()});
    ASSERT_EQ(r.status, 0) << r.err;
    EXPECT_EQ(r.out, "");
    const json trace = testing::read_json(out.path());
    EXPECT_EQ(trace["logits"]["positions"], json::array({0, 1, 2}));
    EXPECT_EQ(trace["logits"]["rows"].size(), 3U);
}

class CliTraceTokens : public Cli, public ::testing::WithParamInterface<const char*> {};

TEST_P(CliTraceTokens, AreRefused) {
    const TemporaryFile tokens(GetParam());
    const ProgramResult r = run_palimpsest({"trace", "-m", mute.path(), "--tokens", tokens.path()});
    EXPECT_TRUE(r.status == 4 || r.status == 2) << r.status << r.err;
    EXPECT_EQ(r.out, "");
}

INSTANTIATE_TEST_SUITE_P(Wrong, CliTraceTokens,
                         ::testing::Values("", "[", "{}", "7", "[40]", "[-1]", "[1.5]", "[\"a\"]",
                                           "[99999999999999999999]", "[null]", "[[1]]", "[]"));

TEST_F(Cli, CompletionIsValidBash) {
    const ProgramResult r = run_palimpsest({"completion"});
    ASSERT_EQ(r.status, 0);
    const TemporaryFile script(r.out);
    // NOLINTNEXTLINE(concurrency-mt-unsafe): the test has one thread
    EXPECT_EQ(std::system(("bash -n " + script.path()).c_str()), 0);
    EXPECT_SAYS(r.out, "--replace-invalid-utf8");
}

TEST_F(Cli, CtrlCInTheMiddleOfReadingStopsSoon) {
    testing::GgufBuilder f = testing::tiny_llama(testing::kTinyBpeTokens);
    testing::add_bpe_vocabulary(f);
    f.set("llama.context_length", uint32_t{1} << 22U);
    const TemporaryFile patient(f.bytes(), ".gguf");
    const TemporaryFile document(std::string(1 << 20, 'x'));
    const ProgramResult r = run_palimpsest(
        {"run", "-m", patient.path(), "--chunk", "64", "-t", "1", "-f", document.path(), "x"},
        {.interrupt_after_s = 4});
    EXPECT_EQ(r.status, 130) << r.err;
    EXPECT_SAYS(r.err, "Ctrl-C");
    EXPECT_LT(r.wall_s, 4 + 5);
}

TEST_F(Cli, CtrlCBeforeReadingStopsAtOnce) {
    const TemporaryFile place("");
    const std::string silent = place.path() + ".pipe";  // opening it waits for a writer
    ASSERT_EQ(mkfifo(silent.c_str(), 0600), 0);
    const ProgramResult r =
        run_palimpsest({"run", "-m", model.path(), "-f", silent, "x"}, {.interrupt_after_s = 1});
    unlink(silent.c_str());
    EXPECT_EQ(r.status, 130);
    EXPECT_EQ(r.err, "palimpsest: stopped by Ctrl-C\n");
    EXPECT_LT(r.wall_s, 1 + 5);
}

TEST_F(Cli, RealModelAnswers) {
    REQUIRE_MODEL();
    const ProgramResult r = run_palimpsest({"run", "-m", *model_path, "-n", "8", "Say hello."});
    EXPECT_EQ(r.status, 0) << r.err;
    EXPECT_GT(r.out.size(), 2U);
}

TEST_F(Cli, RealModelStopsReadingSoonAfterCtrlC) {
    REQUIRE_MODEL();
    std::string text;
    for (int i = 0; i < 4000; ++i) text += "The fox went home. ";
    const TemporaryFile document(text);
    const ProgramResult r = run_palimpsest(
        {"run", "-m", *model_path, "-c", "30000", "--chunk", "64", "-f", document.path(), "x"},
        {.interrupt_after_s = 4});
    EXPECT_EQ(r.status, 130) << r.err;
    EXPECT_LT(r.wall_s, 4 + 10);
}

/// Flags of bounded memories that cannot work, and what the message must name.
struct BadMemory {
    const char* name;
    std::vector<std::string> flags;
    int status;
    const char* says;
};

class BadMemoryFlags : public ::testing::TestWithParam<BadMemory> {};

TEST_P(BadMemoryFlags, EndWithASentence) {
    const TemporaryFile model(speaking_model(), ".gguf");
    std::vector<std::string> arguments = {"run",     "-m", model.path(),          "-n", "2",
                                          "--chunk", "32", "--eviction-interval", "32", "hello"};
    arguments.insert(arguments.end(), GetParam().flags.begin(), GetParam().flags.end());
    expect_failure(run_palimpsest(arguments), GetParam().status, GetParam().says);
}

INSTANTIATE_TEST_SUITE_P(
    Run, BadMemoryFlags,
    ::testing::Values(
        BadMemory{"zero_budget", {"-b", "0"}, 2, "'0'"},
        BadMemory{"negative_budget", {"--memory-budget=-3"}, 2, "'-3'"},
        BadMemory{"over_all", {"-b", "120%"}, 2, "over 100 %"},
        BadMemory{"no_unit", {"-b", "64M"}, 2, "unit 'M'"},
        BadMemory{"below_protected", {"-b", "20", "-p", "window", "--recent", "30"}, 2, "30 last"},
        BadMemory{"below_window", {"-b", "40", "-p", "snap-kv"}, 2, "64 last"},
        BadMemory{"bytes_too_few", {"-b", "3kB"}, 2, "3000 bytes"},
        BadMemory{"above_context", {"-b", "100000"}, 2, "100000"},
        BadMemory{"unknown_policy", {"-b", "99", "-p", "snapkv"}, 3, "did you mean 'snap-kv'"},
        BadMemory{"no_budget", {"-p", "window"}, 2, "--memory-budget"},
        BadMemory{"full_with_budget", {"-b", "99", "-p", "full"}, 2, "forgets nothing"},
        BadMemory{"allocator_for_nothing", {"--allocator", "adaptive"}, 2, "--memory-budget"},
        BadMemory{"mark_for_nothing", {"-b", "99", "--keep-text", "hello"}, 2, "does not occur"},
        BadMemory{"interval_for_nothing", {}, 2, "--memory-budget"},
        BadMemory{
            "setting_without_value", {"-b", "99", "--policy-option", "window"}, 2, "NAME=VALUE"}),
    [](const auto& test) { return test.param.name; });

TEST_F(Cli, TraceListsWhatEveryCutKept) {
    const TemporaryFile tokens("[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]");
    const TemporaryFile question("[3,4,5]");
    const ProgramResult r =
        run_palimpsest({"trace", "-m", mute.path(), "--tokens", tokens.path(), "--question-tokens",
                        question.path(), "--policy", "window", "--ratio", "0.5", "--one-shot",
                        "--logits", "question"});
    ASSERT_EQ(r.status, 0) << r.err;
    const nlohmann::json traced = nlohmann::json::parse(r.out);
    EXPECT_EQ(traced["tokens"], 23);
    EXPECT_EQ(traced["logits"]["positions"], nlohmann::json::array({20, 21, 22}));
    EXPECT_EQ(traced["logits"]["rows"].size(), 3);
    ASSERT_EQ(traced["compressions"].size(), 1);
    const nlohmann::json& cut = traced["compressions"].front();
    EXPECT_EQ(cut["at"], 20);
    EXPECT_EQ(cut["layers"].front()["heads"].back()["kept"],
              nlohmann::json::array({0, 1, 2, 3, 14, 15, 16, 17, 18, 19}));
}

/// Tokens that are written: cut every `tau`, the last ones staying; with what scored and what the
/// residue holds.
TEST_F(Cli, TraceDecodesAndDumpsTheMemory) {
    const testing::TinyModelOptions tiny;
    const TemporaryFile learner(testing::tiny_model_bytes(tiny), ".gguf");
    const MemoryShape shape = {.n_layer = tiny.n_layer,
                               .n_head = tiny.n_head,
                               .n_head_kv = tiny.n_head_kv,
                               .d_head = tiny.d_head,
                               .windows = {},
                               .n_embd = testing::kTinyWidth};
    const TemporaryFile sidecar(testing::small_sidecar(shape).bytes(), ".gguf");
    const TemporaryFile tokens(json(testing::tiny_tokens(30)).dump());
    const TemporaryFile written(json(testing::tiny_tokens(12, 2)).dump());
    const ProgramResult r = run_palimpsest({"trace",
                                            "-m",
                                            learner.path(),
                                            "--sidecar",
                                            sidecar.path(),
                                            "--tokens",
                                            tokens.path(),
                                            "--decode-tokens",
                                            written.path(),
                                            "-p",
                                            "indexer",
                                            "--residue",
                                            "latent",
                                            "--ratio",
                                            "0.5",
                                            "--one-shot",
                                            "-b",
                                            "18",
                                            "--tau",
                                            "4",
                                            "--local-window",
                                            "6",
                                            "--dump-memory",
                                            "--logits",
                                            "decode"});
    ASSERT_EQ(r.status, 0) << r.err;
    const json traced = json::parse(r.out);
    EXPECT_EQ(traced["tokens"], 42);
    ASSERT_EQ(traced["logits"]["positions"].size(), 12U);
    EXPECT_EQ(traced["logits"]["positions"][0], 30);
    EXPECT_EQ(traced["logits"]["rows"].size(), 12U);
    const json& cuts = traced["compressions"];
    ASSERT_EQ(cuts.size(), 4U);
    EXPECT_EQ(cuts[0]["at"], 30);
    for (size_t i = 1; i < cuts.size(); ++i) EXPECT_EQ(cuts[i]["at"], 30 + 4 * i);
    for (const json& cut : cuts) {
        ASSERT_EQ(cut["layers"].size(), 2U);
        for (const json& layer : cut["layers"]) {
            EXPECT_EQ(layer["importance"].size(), layer["rows"].size());
            ASSERT_EQ(layer["M"].size(), 2U) << "of each KV head";
            EXPECT_EQ(layer["M"][0].size(), 6U);
            EXPECT_EQ(layer["M"][0][0].size(), 16U);
            EXPECT_EQ(layer["b"][1].size(), 6U);
        }
    }
    const int64_t at = cuts[3]["at"];
    const json& kept = cuts[3]["layers"][0]["heads"][0]["kept"];
    ASSERT_EQ(kept.size(), 18U);
    for (size_t i = 1; i <= 6; ++i) {
        EXPECT_EQ(kept[kept.size() - i], at - static_cast<int64_t>(i));
    }
}

TEST_F(Cli, RatioAndBudgetContradictEachOther) {
    const TemporaryFile tokens("[1,2,3]");
    expect_failure(run_palimpsest({"trace", "-m", mute.path(), "--tokens", tokens.path(), "-p",
                                   "window", "--ratio", "0.5", "-b", "10"}),
                   2, "--ratio and --memory-budget");
}

TEST_F(Cli, ReportGoesToPeopleAndToAFile) {
    const TemporaryFile told("", ".json");
    const TemporaryFile document(std::string(600, 'a'), ".txt");
    const ProgramResult r =
        run_palimpsest({"run", "-m", model.path(), "-n", "2", "-b", "64", "-p", "window", "--chunk",
                        "64", "--eviction-interval", "64", "-f", document.path(), "--report",
                        "--report-json", told.path(), "hello"});
    ASSERT_EQ(r.status, 0) << r.err;
    EXPECT_SAYS(r.err, "tokens held by no head at all");
    const auto report = nlohmann::json::parse(testing::read_text(told.path()));
    EXPECT_EQ(report["policy"], "window");
    EXPECT_GT(report["positions"]["dropped"].get<int>(), 0);
}

}  // namespace
}  // namespace palimpsest
