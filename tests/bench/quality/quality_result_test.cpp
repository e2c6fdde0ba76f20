// Lines of quality results: written, read, keyed, and refused.

#include "bench/quality/quality_result.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "core/error.h"
#include "support/quality_samples.h"

namespace palimpsest {
namespace {

using testing::full_result;
using testing::policy_result;

/// Every field differs from its default.
QualityResult whole_result() {
    QualityResult r = policy_result("snap-kv", "niah_single_1", "7", 0.625);
    r.seed = 18446744073709551615U;
    r.memory = "other";
    r.residue = "merge";
    r.options = "window=32";
    r.entries = "q8_0";
    r.question = "aware";
    r.chunk = 256;
    r.has_template = false;
    r.output = "line\n\"quoted\" \xC3\xA9";
    r.label = "yes";
    r.predicted = "no";
    r.depth = 0.5;
    r.n_question = 12;
    r.kept = 1.0 / 3;
    r.cut_s = 0.125;
    r.lanes = 4;
    r.prefix = "rules (0123456789abcdef)";
    r.weights = "fedcba9876543210";
    r.reading = "int8";
    return r;
}

QualityResult divergence_result() {
    QualityResult r = policy_result("h2o", "text", "0", 1.5);
    r.metric = "kl";
    r.nll = 3.25;
    r.nll_full = 3;
    r.kl_by_position = {{.begin = 0, .end = 16, .kl = 2}, {.begin = 16, .end = 32, .kl = 1}};
    return r;
}

ErrorCode code_of(const std::function<void()>& act) {
    try {
        act();
    } catch (const Error& e) {
        return e.code();
    }
    ADD_FAILURE() << "nothing was thrown";
    return ErrorCode::kInternal;
}

std::string message_of(const std::function<void()>& act) {
    try {
        act();
    } catch (const Error& e) {
        return e.what();
    }
    return "";
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
}

TEST(QualityResult, LineReadsBackAsTheSame) {
    for (const QualityResult& r : {whole_result(), divergence_result(), QualityResult{}}) {
        const std::string line = to_json_line(r);
        EXPECT_EQ(to_json_line(parse_quality_result(line)), line);
    }
    const QualityResult back = parse_quality_result(to_json_line(whole_result()));
    EXPECT_EQ(back.seed, 18446744073709551615U);
    EXPECT_EQ(back.output, whole_result().output);
    EXPECT_EQ(back.kept, 1.0 / 3);
    EXPECT_EQ(back.predicted, "no");
    EXPECT_FALSE(back.has_template);
}

TEST(QualityResult, DivergenceByPositionReadsBack) {
    const QualityResult back = parse_quality_result(to_json_line(divergence_result()));
    ASSERT_EQ(back.kl_by_position.size(), 2U);
    EXPECT_EQ(back.kl_by_position[1].begin, 16);
    EXPECT_EQ(back.kl_by_position[1].kl, 1);
    EXPECT_EQ(back.nll_full, 3);
}

TEST(QualityResult, LineBeginsWithItsKindAndStaysOneLine) {
    const std::string line = to_json_line(whole_result());
    EXPECT_TRUE(line.starts_with(R"({"kind":"quality","version":1,"task":"niah_single_1",)"));
    EXPECT_EQ(line.find('\n'), std::string::npos);
}

TEST(QualityResult, InvalidUtf8InAnOutputIsReplaced) {
    QualityResult r = whole_result();
    r.output = "a\xFFz";
    EXPECT_EQ(parse_quality_result(to_json_line(r)).output, "a\xEF\xBF\xBDz");
}

TEST(QualityResult, NumbersThatAreNotFiniteAreNotWritten) {
    QualityResult r = whole_result();
    r.decode_s = std::numeric_limits<double>::infinity();
    EXPECT_EQ(code_of([&] { (void)to_json_line(r); }), ErrorCode::kInternal);
}

TEST(QualityResult, KeyIsWhatWasAskedAndNotWhatCameOfIt) {
    const QualityResult r = whole_result();
    QualityResult same = r;
    same.score = 0;
    same.output = "other";
    same.commit = "later";
    same.lanes = 1;
    EXPECT_EQ(same.key(), r.key());
    EXPECT_EQ(parse_quality_result(to_json_line(r)).key(), r.key());
}

TEST(QualityResult, KeyChangesWithEverythingAsked) {
    const QualityResult r = whole_result();
    const std::vector<std::function<void(QualityResult&)>> changes = {
        [](auto& x) { x.task += "x"; },
        [](auto& x) { x.length += 1; },
        [](auto& x) { x.seed -= 1; },
        [](auto& x) { x.sample += "x"; },
        [](auto& x) { x.prompt += "x"; },
        [](auto& x) { x.model += "x"; },
        [](auto& x) { x.policy += "x"; },
        [](auto& x) { x.allocator += "x"; },
        [](auto& x) { x.residue += "x"; },
        [](auto& x) { x.options += "x"; },
        [](auto& x) { x.entries += "x"; },
        [](auto& x) { x.budget += "x"; },
        [](auto& x) { x.protocol += "x"; },
        [](auto& x) { x.question += "x"; },
        [](auto& x) { x.chunk += 1; },
        [](auto& x) { x.has_template = !x.has_template; },
        [](auto& x) { x.memory += "x"; },
        [](auto& x) { x.source += "x"; },
        [](auto& x) { x.prefix += "x"; },
        [](auto& x) { x.weights += "x"; },
        [](auto& x) { x.reading += "x"; },
        [](auto& x) { std::swap(x.prefix, x.weights); },
        [](auto& x) { std::swap(x.task, x.group); }};
    for (size_t i = 0; i < changes.size(); ++i) {
        QualityResult other = r;
        changes[i](other);
        EXPECT_NE(other.key(), r.key()) << i;
    }
}

TEST(QualityResult, KeyStaysWhatItWasInEarlierFiles) {
    EXPECT_EQ(full_result("vt", "3", 1).key(),
              R"(["vt","ruler","all",2048,42,"3","hash of vt3","generated","tiny.gguf 0123","kv",)"
              R"("full","none","none","","f16","everything","full","agnostic",512,true])");
}

TEST(QualityResult, DamagedLinesSayWhatIsWrong) {
    const std::string line = to_json_line(whole_result());
    const std::vector<std::pair<std::string, std::string>> cases = {
        {"", "JSON"},
        {"[1]", "no object"},
        {"{}", "neither"},
        {R"({"kind":"other"})", "neither"},
        {R"({"kind":"quality"})", "version"},
        {replaced(line, R"("score":0.625)", R"("score":"high")"), "'score' is not a number"},
        {replaced(line, R"("score":0.625)", R"("score":1.5)"), "'score' is 1.5"},
        {replaced(line, R"("score":0.625,)", ""), "'score' is missing"},
        {replaced(line, R"("length":2048)", R"("length":-1)"), "'length'"},
        {replaced(line, R"("length":2048)", R"("length":2.5)"), "'length'"},
        {replaced(line, R"("lanes":4)", R"("lanes":0)"), "'lanes'"},
        {replaced(line, R"("bytes":500)", R"("bytes":99999999999999999999)"), "'bytes'"},
        {replaced(line, R"("decode_s":0.5)", R"("decode_s":1e999)"), "JSON"},
        {replaced(line, R"("has_template":false)", R"("has_template":0)"), "'has_template'"},
        {replaced(line, R"("task":"niah_single_1")", R"("task":1)"), "'task' is not a text"}};
    for (const auto& damaged : cases) {
        const auto& text = damaged.first;  // Clang 14: a lambda captures no part of a binding
        EXPECT_EQ(code_of([&] { (void)parse_quality_result(text); }), ErrorCode::kCorrupt) << text;
        const std::string message = message_of([&] { (void)parse_quality_result(text); });
        EXPECT_NE(message.find(damaged.second), std::string::npos) << message;
    }
}

TEST(QualityResult, DamagedDivergenceIsRefused) {
    const std::string line = to_json_line(divergence_result());
    for (const char* bins : {"3", "[3]", R"([{"begin":16,"end":16,"kl":1}])", R"([{"begin":1}])"}) {
        const size_t at = line.find("\"kl_by_position\":") + 17;
        const std::string damaged = line.substr(0, at) + bins + "}";
        EXPECT_EQ(code_of([&] { (void)parse_quality_result(damaged); }), ErrorCode::kCorrupt);
    }
}

TEST(QualityResult, AnotherVersionNamesBothAndWhatToDo) {
    const std::string line =
        replaced(to_json_line(whole_result()), "\"version\":1", "\"version\":7");
    EXPECT_EQ(code_of([&] { (void)parse_quality_result(line); }), ErrorCode::kUnsupported);
    const std::string message = message_of([&] { (void)parse_quality_result(line); });
    for (const char* part : {"version 7", "version 1", "measure again"}) {
        EXPECT_NE(message.find(part), std::string::npos) << message;
    }
}

TEST(QualityResults, SpeedAndBlankLinesAreSkipped) {
    const std::string text =
        cat("{\"phase\": \"decode\", \"ours\": 3}\n\n", to_json_line(whole_result()), "\r\n  \n",
            to_json_line(divergence_result()), "\n");
    EXPECT_EQ(read_quality_results(text, "f").size(), 2U);
}

TEST(QualityResults, ErrorsNameFileAndLine) {
    const std::string text = cat(to_json_line(whole_result()), "\nnonsense\n");
    EXPECT_EQ(code_of([&] { (void)read_quality_results(text, "f.jsonl"); }), ErrorCode::kCorrupt);
    const std::string message = message_of([&] { (void)read_quality_results(text, "f.jsonl"); });
    EXPECT_TRUE(message.starts_with("'f.jsonl', line 2: ")) << message;
}

TEST(QualityResults, LineOfAnotherKindIsRefused) {
    EXPECT_EQ(code_of([] { (void)read_quality_results("{\"a\": 1}\n", "f"); }),
              ErrorCode::kCorrupt);
}

TEST(QualityResults, HalfALastLineIsNotAnErrorWhereverItIsCut) {
    const std::string first = to_json_line(divergence_result()) + "\n";
    const std::string second = to_json_line(whole_result());
    for (size_t n = 0; n < second.size(); ++n) {
        const std::string text = first + second.substr(0, n);
        size_t whole_bytes = 0;
        EXPECT_EQ(read_quality_results(text, "f", &whole_bytes).size(), 1U) << n;
        EXPECT_EQ(whole_bytes, first.size()) << n;
        EXPECT_EQ(read_quality_results(text, "f").size(), 1U) << n;
    }
}

TEST(QualityResults, UnendedLineCountsForReadersButNotForWhoWritesOn) {
    const std::string first = to_json_line(divergence_result()) + "\n";
    const std::string text = first + to_json_line(whole_result());
    EXPECT_EQ(read_quality_results(text, "f").size(), 2U);
    size_t whole_bytes = 0;
    EXPECT_EQ(read_quality_results(text, "f", &whole_bytes).size(), 1U);
    EXPECT_EQ(whole_bytes, first.size());
    EXPECT_EQ(read_quality_results(text + "\n", "f", &whole_bytes).size(), 2U);
    EXPECT_EQ(whole_bytes, text.size() + 1);
}

TEST(QualityResults, GarbageWithoutALineEndIsNotTakenForAnInterruption) {
    EXPECT_EQ(code_of([] { (void)read_quality_results("nonsense", "f"); }), ErrorCode::kCorrupt);
    size_t n = 0;
    EXPECT_EQ(code_of([&] { (void)read_quality_results("nonsense", "f", &n); }),
              ErrorCode::kCorrupt);
}

TEST(QualityResults, EmptyTextHoldsNone) {
    size_t whole_bytes = 1;
    EXPECT_TRUE(read_quality_results("", "f", &whole_bytes).empty());
    EXPECT_EQ(whole_bytes, 0U);
}

}  // namespace
}  // namespace palimpsest
