// Kinds of failure that users of such programs have met, named as the list of field cases numbers
// them: what models, grammars and files may not do to the program, or to a terminal.

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/lost_files.h"
#include "core/mapped_file.h"
#include "support/gguf_builder.h"
#include "support/golden.h"
#include "support/process.h"
#include "support/tiny_model.h"
#include "text/json_text.h"
#include "text/utf8.h"

namespace palimpsest {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::GgufBuilder;
using testing::ProgramResult;
using testing::run_palimpsest;
using testing::TemporaryFile;

#define EXPECT_SAYS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

GgufBuilder speaking_llama(std::string_view missing = "") {
    GgufBuilder f = testing::tiny_llama(testing::kTinyBpeTokens);
    testing::add_bpe_vocabulary(f, missing);
    return f;
}

/// It failed with this status and a sentence.
void expect_failure(const ProgramResult& r, int status, const std::string& says) {
    EXPECT_EQ(r.status, status) << r.err;
    EXPECT_TRUE(r.err.starts_with("palimpsest: ")) << r.err;
    EXPECT_SAYS(r.err, says);
}

/// Nothing that a terminal would obey: control characters, but for line breaks and tabs.
void expect_harmless(const std::string& text) {
    EXPECT_EQ(printable_lines(text), text);
    EXPECT_EQ(text.find('\r'), std::string::npos);
}

ProgramResult run_with_grammar(const std::string& model, const std::string& grammar,
                               const std::string& temperature = "0") {
    const TemporaryFile file(grammar, ".gbnf");
    return run_palimpsest({"run", "-m", model, "--raw", "-n", "8", "--temperature", temperature,
                           "--grammar-file", file.path(), "abc"});
}

std::string repeated(const std::string& text, size_t n) {
    std::string out;
    for (size_t i = 0; i < n; ++i) out += text;
    return out;
}

TEST(FieldModels, C4_AModelThatIsNoNumberIsNoAnswer) {
    GgufBuilder f = speaking_llama();
    f.tensor("blk.1.ffn_up.weight").data.replace(64, 4, testing::raw(std::nanf("")));
    const TemporaryFile model(f.bytes(), ".gguf");
    const ProgramResult r = run_palimpsest({"run", "-m", model.path(), "--raw", "--json", "abc"});
    expect_failure(r, 4, "blk.1.ffn_up.weight");
    EXPECT_SAYS(r.err, "not a number");
    EXPECT_EQ(r.out, "");
}

TEST(FieldModels, D1_RangesThatEndBeforeTheyBeginAreRefused) {
    const TemporaryFile model(speaking_llama().bytes(), ".gguf");
    for (const char* grammar :
         {"root ::= [z-a]", "root ::= \"a\" [z-a]", "root ::= [a-z9-0]", "root ::= [^z-a]",
          "root ::= [\\x7a-\\x61]", "root ::= [\\u00e9-a]", "root ::= [é-a]"}) {
        for (const char* temperature : {"0", "1"}) {
            const ProgramResult r = run_with_grammar(model.path(), grammar, temperature);
            expect_failure(r, 2, "range");
            EXPECT_EQ(r.out, "");
        }
    }
    EXPECT_EQ(run_with_grammar(model.path(), "root ::= [a-]+ | [-a] | [\\]-a\\]]+").status, 0);
}

TEST(FieldModels, D1_GrammarsThatCannotGoOnEndWithTheirStatus) {
    const TemporaryFile model(speaking_llama("~").bytes(), ".gguf");
    for (const char* grammar : {"root ::= \"h\" \"~\"", "root ::= \"~\"", "root ::= \"h\" [~]+",
                                "root ::= \"h\" <[99999]>", "root ::= \"h\" [^\\x00-\\U0010FFFF]",
                                "root ::= \"h\" \"\\x00\""}) {
        for (const char* temperature : {"0", "1", "100"}) {
            expect_failure(run_with_grammar(model.path(), grammar, temperature), 2, "grammar");
        }
    }
}

TEST(FieldModels, D1_RulesThatBeginWithThemselvesAreRefused) {
    const TemporaryFile model(speaking_llama().bytes(), ".gguf");
    for (const char* grammar :
         {"root ::= root \"x\"", "root ::= a\na ::= b\nb ::= a \"x\"", "root ::= \"\" root \"x\"",
          "root ::= root", "root ::= (\"a\"?) root \"x\" | \"b\""}) {
        expect_failure(run_with_grammar(model.path(), grammar), 2, "grammar");
    }
}

TEST(FieldModels, D2_DeepGrammarsAreRefused) {
    const TemporaryFile model(speaking_llama().bytes(), ".gguf");
    std::string chain = "root ::= r0\n";
    for (int i = 0; i < 20000; ++i) {
        chain += "r" + std::to_string(i) + " ::= \"a\" r" + std::to_string(i + 1) + "\n";
    }
    for (const std::string& grammar :
         {"root ::= " + repeated("(", 20000) + "\"a\"" + repeated(")", 20000),
          "root ::= " + repeated("(", 60000), "root ::= \"a\"" + repeated("+", 50000),
          "root ::= " + repeated("(", 40) + "\"a\"" + repeated("+)", 40), chain,
          std::string("root ::= \"a\"{999999999}"), std::string("root ::= \"a\"{0,99999999999}")}) {
        expect_failure(run_with_grammar(model.path(), grammar), 2, "grammar");
    }
}

TEST(FieldModels, D3_DeepJsonIsRefused) {
    const TemporaryFile model(speaking_llama().bytes(), ".gguf");
    const std::string deep = repeated("[", 200000) + repeated("]", 200000);
    for (const std::string& text :
         {deep, repeated("{\"a\":", 200000), repeated("[", 200000), "[1," + deep + "]"}) {
        const TemporaryFile file(text, ".json");
        expect_failure(run_palimpsest({"trace", "-m", model.path(), "--tokens", file.path()}), 4,
                       "JSON");
    }
}

TEST(FieldModels, D3_MessagesQuoteLittleOfWhatIsWrong) {
    const TemporaryFile model(speaking_llama().bytes(), ".gguf");
    for (const std::string& text :
         {"[" + repeated("[", 200) + repeated("]", 200) + "]",
          "[\"" + std::string(100000, 'x') + "\"]", std::string("[\"\\u001b[31m\"]")}) {
        const TemporaryFile file(text, ".json");
        const ProgramResult r =
            run_palimpsest({"trace", "-m", model.path(), "--tokens", file.path()});
        expect_failure(r, 4, "whole numbers");
        EXPECT_LT(r.err.size(), 400U);
        expect_harmless(r.err);
    }
}

TEST(FieldModels, D3_JsonLinesThatNestAreRefused) {
    EXPECT_TRUE(parse_json(repeated("[", 100000) + repeated("]", 100000)).is_discarded());
    EXPECT_TRUE(
        parse_json("{\"a\":" + repeated("[", 300) + repeated("]", 300) + "}").is_discarded());
    EXPECT_EQ(parse_json("[\"" + repeated("[{", 300) + "\\\"[\"]").size(), 1U);
    EXPECT_EQ(parse_json(repeated("[", 100) + repeated("]", 100)).size(), 1U);
}

TEST(FieldModels, D4_NamesOfAnyBytesAreWritten) {
    GgufBuilder f = speaking_llama();
    const TemporaryFile model(f.set_text("general.name", "na\xefve \xff model").bytes(), ".gguf");
    const std::string odd = model.path() + "\xff.gguf";
    fs::copy_file(model.path(), odd);
    const ProgramResult r = run_palimpsest({"inspect", "--json", odd});
    EXPECT_EQ(r.status, 0) << r.err;
    const json facts = json::parse(r.out);
    EXPECT_EQ(facts["name"], "na\xEF\xBF\xBDve \xEF\xBF\xBD model");
    EXPECT_SAYS(facts["path"].get<std::string>(), "\xEF\xBF\xBD.gguf");
    const ProgramResult speed = run_palimpsest(
        {"bench", "speed", "-m", odd, "--json", "-p", "8", "-n", "2", "--repeat", "1"});
    EXPECT_NE(speed.status, 70) << speed.err;
    fs::remove(odd);
}

TEST(FieldModels, D6_RowsBeyondTheVocabularyAreNeverWritten) {
    GgufBuilder f = testing::tiny_llama(testing::kTinyBpeTokens + 64);
    testing::add_bpe_vocabulary(f);
    const TemporaryFile model(f.bytes(), ".gguf");
    const ProgramResult r = run_with_grammar(
        model.path(), "root ::= (\"\xF0\x9F\x91\xA9\" | \"\xE6\x97\xA5\" | \"\xC3\xA9\")+");
    EXPECT_EQ(r.status, 0) << r.err;
    const ProgramResult hot =
        run_palimpsest({"run", "-m", model.path(), "--raw", "-n", "60", "--temperature", "100",
                        "--top-k", "0", "--top-p", "1", "--min-p", "0", "--seed", "1", "abc"});
    EXPECT_EQ(hot.status, 0) << hot.err;
}

constexpr const char* kEvil =
    "\x1b]0;owned\x07\x1b[31mRED\x1b[0m\r\nsecond\x7f \xC2\x9B"
    "31m \xE2\x80\xAE over";

TEST(FieldModels, F1_ControlCharactersOfAModelAreShown) {
    GgufBuilder f = speaking_llama();
    f.set_text("general.name", kEvil);
    const TemporaryFile model(f.bytes(), ".gguf");
    const ProgramResult r = run_palimpsest({"inspect", model.path()});
    EXPECT_EQ(r.status, 0) << r.err;
    expect_harmless(r.out);
    EXPECT_SAYS(r.out, "\\x1b[31mRED\\x1b[0m\\r\\nsecond\\x7f \\u009b31m \\u202e over");
    f.set_text("general.architecture", kEvil);
    const TemporaryFile odd(f.bytes(), ".gguf");
    const ProgramResult refused = run_palimpsest({"inspect", odd.path()});
    expect_failure(refused, 5, "\\x1b");
    expect_harmless(refused.err);
}

TEST(FieldModels, F1_ControlCharactersOfATextAreShown) {
    const TemporaryFile model(speaking_llama().bytes(), ".gguf");
    const TemporaryFile text(kEvil);
    const ProgramResult r = run_palimpsest({"tokenize", "-m", model.path(), "-f", text.path()});
    EXPECT_EQ(r.status, 0) << r.err;
    expect_harmless(r.out);
    EXPECT_SAYS(r.out, "\\x1b");
}

TEST(FieldModels, F1_MessagesShowWhatTheyQuote) {
    const std::vector<std::vector<std::string>> lines = {
        {"run", "-m", std::string("no") + kEvil, "x"},
        {"run", std::string("--") + kEvil, "x"},
        {kEvil}};
    for (const auto& arguments : lines) {
        const ProgramResult r = run_palimpsest(arguments);
        EXPECT_NE(r.status, 0);
        expect_harmless(r.err);
    }
}

TEST(FieldModels, F1_AnAnswerIntoAPipeIsAsItIs) {
    const TemporaryFile model(speaking_llama().bytes(), ".gguf");
    const ProgramResult r = run_with_grammar(model.path(), "root ::= \"\\x1b\" \"[31m\"");
    EXPECT_EQ(r.status, 0) << r.err;
    EXPECT_EQ(r.out, "\x1b[31m\n");
}

TEST(FieldModels, AFileThatIsCutWhileItIsMappedIsNamed) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    const TemporaryFile file(std::string(1 << 20, 'x'), ".gguf");
    const auto read_what_is_lost = [&] {
        end_on_lost_files();
        const MappedFile mapped(file.path());
        if (truncate(file.path().c_str(), 4096) != 0 || unlink(file.path().c_str()) != 0) _exit(1);
        volatile auto byte = mapped.bytes()[500000];
        _exit(byte == std::byte{'x'} ? 2 : 3);
    };
    EXPECT_EXIT(read_what_is_lost(), ::testing::ExitedWithCode(4), "palimpsest: '.*cut short");
}

TEST(FieldModels, AFaultElsewhereStillEndsTheProgramAsItDid) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    const auto be_told = [] {
        end_on_lost_files();
        raise(SIGBUS);
    };
    EXPECT_EXIT(be_told(), ::testing::KilledBySignal(SIGBUS), "");
}

/// The commands of the list, over its inputs, with the status that is right.
TEST(FieldModels, TheListsOwnInputsEndAsTheyShould) {
    REQUIRE_FIELD();
    const auto at = [&](const char* name) { return (*field_folder / name).string(); };
    const auto expect = [&](std::vector<std::string> arguments, int status, const char* says) {
        const ProgramResult r = run_palimpsest(arguments);
        EXPECT_EQ(r.status, status) << arguments[0] << " " << arguments[2] << ": " << r.err;
        EXPECT_SAYS(r.out + r.err, says);
    };
    const TemporaryFile ids("[1,2,3]", ".json");
    const std::pair<const char*, const char*> refused[] = {{"qwen2_outbias.gguf", "output.bias"},
                                                           {"qscale.gguf", "attn_q.scale"},
                                                           {"blockcount1.gguf", "blk.1."},
                                                           {"nocausal.gguf", "attention.causal"},
                                                           {"oddpre.gguf", "never-heard-of"}};
    for (const auto& [name, says] : refused) {
        expect({"trace", "-m", at(name), "--tokens", ids.path()}, 5, says);
    }
    expect({"run", "-m", at("nan4k.gguf"), "--raw", "-n", "4", "--json", "abc"}, 4, "not a number");
    expect({"run", "-m", at("g3_swaneg.gguf"), "--raw", "abc"}, 4, "freq_base_swa");
    for (const char* grammar : {"revrange.gbnf", "a_rev.gbnf", "deep.gbnf"}) {
        expect({"run", "-m", at("bpe4k.gguf"), "--raw", "--grammar-file", at(grammar), "abc"}, 2,
               "grammar");
    }
    expect({"run", "-m", at("padvocab.gguf"), "--raw", "-n", "9", "--grammar-file", at("emo.gbnf"),
            "abc"},
           0, "");
    for (const char* name : {"kvarr.gguf", "split-00001-of-00003.gguf", "yarn_noorig.gguf",
                             "ansi.gguf", "nonutf8name.gguf"}) {
        expect({"inspect", "-m", at(name)}, 0, "vocabulary");
        expect({"run", "-m", at(name), "--raw", "-n", "2", "abc"}, 0, "");
    }
    expect({"inspect", "-m", at("split-00002-of-00003.gguf")}, 2, "split-00001-of-00003.gguf");
}

}  // namespace
}  // namespace palimpsest
