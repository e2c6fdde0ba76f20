// Tasks whose questions are read from files, on small files made here.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "bench/tasks/metrics.h"
#include "core/error.h"
#include "support/golden.h"
#include "support/task_files.h"
#include "text/utf8.h"

namespace palimpsest {
namespace {

using nlohmann::json;
using testing::count_of;
using testing::count_test_tokens;
using testing::request_of;
using testing::samples_of;
using testing::TemporaryFile;
using testing::TemporaryFolder;

/// Expects an error of this code whose message holds the text.
template <typename Function>
void expect_error(Function function, ErrorCode code, std::string_view text) {
    try {
        function();
        ADD_FAILURE() << "no error; wanted one with " << text;
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), code) << error.what();
        EXPECT_NE(std::string_view(error.what()).find(text), std::string_view::npos)
            << error.what();
    }
}

json squad(int n_paragraph) {
    json paragraphs = json::array();
    for (int i = 0; i < n_paragraph; ++i) {
        const std::string mark = "Mark" + std::to_string(i);
        json item = {{"question", "What is\nthing " + std::to_string(i) + "?"},
                     {"answers", {{{"text", mark}}, {{"text", mark}}, {{"text", mark + "b"}}}}};
        json impossible = {
            {"question", "Unknown?"}, {"answers", json::array()}, {"is_impossible", true}};
        paragraphs.push_back(
            {{"context", testing::prose(6 + i % 5) + mark}, {"qas", {item, impossible}}});
    }
    return {{"data", {{{"paragraphs", paragraphs}}}}};
}

TEST(DocumentTasks, HideSquadsParagraphAmongOthers) {
    const TemporaryFile file(squad(40).dump());
    for (const int64_t length : {512, 2048, 8192}) {
        SampleRequest request = request_of(length, 3);
        request.sources.squad = file.path();
        const auto samples = samples_of("qa_1", request);
        ASSERT_EQ(samples.size(), 3U);
        for (size_t i = 0; i < samples.size(); ++i) {
            const std::string mark = "Mark" + std::to_string(i);
            EXPECT_EQ(samples[i].references, (std::vector<std::string>{mark, mark + "b"}));
            EXPECT_EQ(samples[i].question, "Question: What is thing " + std::to_string(i) + "?");
            EXPECT_EQ(count_of(samples[i].context, mark + "\n"), 1U);
            EXPECT_LE(count_test_tokens(samples[i]), length);
            EXPECT_GE(count_test_tokens(samples[i]), length - length / 50);
        }
    }
}

TEST(DocumentTasks, SayThatDocumentsAreRepeated) {
    const TemporaryFile file(squad(4).dump());
    SampleRequest request = request_of(4096, 9);
    request.sources.squad = file.path();
    const auto samples = samples_of("qa_1", request);
    EXPECT_EQ(samples.size(), 4U);  // no more are in the file
    EXPECT_TRUE(samples[0].source.ends_with("documents repeated"));
    EXPECT_EQ(count_of(samples[0].context, "Mark0\n"), 1U);
}

TEST(DocumentTasks, ReadHotpotsTitlesAndSentences) {
    json items = json::array();
    for (int i = 0; i < 20; ++i) {
        const std::string number = std::to_string(i);
        const json titled = {"Name" + number + " is it. ", "So it is."};
        const json other = json::array({testing::prose(4)});
        items.push_back({{"question", "Who is " + number + "?"},
                         {"answer", "Name" + number},
                         {"context", json::array({json::array({"Title " + number, titled}),
                                                  json::array({"Other " + number, other})})}});
    }
    const TemporaryFile file(items.dump());
    SampleRequest request = request_of(1024, 2);
    request.sources.hotpotqa = file.path();
    const auto samples = samples_of("qa_2", request);
    ASSERT_EQ(samples.size(), 2U);
    EXPECT_NE(samples[0].context.find(":\nTitle 0\nName0 is it. So it is."), std::string::npos);
    EXPECT_NE(samples[0].context.find(":\nOther 0\n"), std::string::npos);
    EXPECT_EQ(samples[1].references, (std::vector<std::string>{"Name1"}));
    EXPECT_LE(count_test_tokens(samples[0]), 1024);
    EXPECT_GE(count_test_tokens(samples[0]), 1024 - 20);
}

TEST(DocumentTasks, RefuseFilesOfAnotherKind) {
    SampleRequest request = request_of(1024);
    expect_error([&] { samples_of("qa_1", request); }, ErrorCode::kInvalidArgument, "--squad FILE");
    expect_error([&] { samples_of("qa_2", request); }, ErrorCode::kInvalidArgument, "--hotpotqa");
    const auto refuse = [&](const char* text, const char* said) {
        const TemporaryFile file(text);
        request.sources.squad = request.sources.hotpotqa = file.path();
        expect_error([&] { samples_of("qa_1", request); }, ErrorCode::kCorrupt, said);
    };
    refuse("{", "not JSON");
    refuse("[]", "not an object");
    refuse("{}", "no field 'data'");
    refuse(R"({"data": 3})", "not a list");
    refuse(R"({"data": [{"paragraphs": [{"context": 1, "qas": []}]}]})", "'context' is not a text");
    refuse(R"({"data": []})", "no questions");
    const TemporaryFile hotpot(R"([{"question": "q", "answer": "a", "context": [["t"]]}])");
    request.sources.hotpotqa = hotpot.path();
    expect_error([&] { samples_of("qa_2", request); }, ErrorCode::kCorrupt, "question 1");
}

std::string long_bench_line(const std::string& context, const json& more = json::object()) {
    json line = {{"input", "Which {context} is it?"},
                 {"context", context},
                 {"answers", {"the answer", "another"}},
                 {"all_classes", nullptr},
                 {"length", 7}};
    line.update(more);
    return line.dump() + "\r\n";
}

TEST(LongBench, PutsFieldsIntoItsPrompts) {
    TemporaryFolder folder;
    folder.write("hotpotqa.jsonl",
                 "\n" + long_bench_line("A {input} text.") + long_bench_line("B"));
    SampleRequest request = request_of(1024, 5);
    request.sources.longbench = folder.path();
    const auto samples = samples_of("hotpotqa", request);
    ASSERT_EQ(samples.size(), 2U);
    EXPECT_TRUE(samples[0].context.ends_with("\n\nA {input} text."));
    EXPECT_TRUE(samples[0].question.ends_with("Question: Which {context} is it?\nAnswer:"));
    EXPECT_EQ(samples[0].references, (std::vector<std::string>{"the answer", "another"}));
    EXPECT_NE(samples[0].source.find("our own words"), std::string::npos);
    EXPECT_EQ(samples[0].n_new, 32);
    EXPECT_TRUE(samples[0].has_template);
}

TEST(LongBench, TakesPromptsThatLieBesideTheFiles) {
    TemporaryFolder folder;
    folder.write("hotpotqa.jsonl", long_bench_line("A text."));
    folder.write("config/dataset2prompt.json",
                 R"({"hotpotqa": "Read: {context} Say: {input} Go:", "qasper": 3, "lcc": "none"})");
    folder.write("qasper.jsonl", long_bench_line("A text."));
    folder.write("lcc.jsonl", long_bench_line("A text."));
    SampleRequest request = request_of(1024);
    request.sources.longbench = folder.path();
    const Sample sample = samples_of("hotpotqa", request).front();
    EXPECT_EQ(sample.context, "Read: A text.");
    EXPECT_EQ(sample.question, " Say: Which {context} is it? Go:");
    EXPECT_NE(sample.source.find("dataset2prompt.json"), std::string::npos);
    expect_error([&] { samples_of("qasper", request); }, ErrorCode::kCorrupt, "not a text");
    expect_error([&] { samples_of("lcc", request); }, ErrorCode::kCorrupt, "{context}");
    expect_error([&] { samples_of("trec", request); }, ErrorCode::kCorrupt, "no field 'trec'");
}

TEST(LongBench, CutsTheMiddleOutOfWhatIsTooLong) {
    TemporaryFolder folder;
    const std::string text = "Begin here. " + testing::prose(300) + "End here.";
    folder.write("lcc.jsonl", long_bench_line(text));
    SampleRequest request = request_of(1024);
    request.sources.longbench = folder.path();
    const Sample sample = samples_of("lcc", request).front();
    EXPECT_LE(count_test_tokens(sample), 1024);
    EXPECT_GE(count_test_tokens(sample), 1024 - 20);
    EXPECT_NE(sample.context.find("Begin here."), std::string::npos);
    EXPECT_TRUE(sample.context.ends_with("End here."));
    EXPECT_TRUE(sample.question.ends_with("Next line of code:\n"));
    EXPECT_NE(sample.source.find("; middle "), std::string::npos) << sample.source;
    EXPECT_FALSE(sample.has_template);
    request.length = 50;
    expect_error([&] { samples_of("lcc", request); }, ErrorCode::kInvalidArgument, "length of 50");
}

TEST(LongBench, AsksChineseTasksInChinese) {
    TemporaryFolder folder;
    const json news = {
        {"input", "新闻：b\n类别："}, {"answers", {"体育"}}, {"all_classes", {"体育", "财经"}}};
    folder.write("lsht.jsonl", long_bench_line("新闻：a\n类别：财经", news));
    folder.write("dureader.jsonl", long_bench_line("文章1", {{"input", "为什么？"}}));
    SampleRequest request = request_of(2048);
    request.sources.longbench = folder.path();
    const Sample sample = samples_of("lsht", request).front();
    EXPECT_TRUE(sample.context.ends_with("\n\n新闻：a\n类别：财经")) << sample.context;
    EXPECT_TRUE(sample.question.ends_with("\n新闻：b\n类别："));
    EXPECT_EQ(sample.classes, (std::vector<std::string>{"体育", "财经"}));
    EXPECT_FALSE(sample.has_template);
    const Sample question = samples_of("dureader", request).front();
    EXPECT_TRUE(question.context.ends_with("\n\n文章1"));
    EXPECT_TRUE(question.question.ends_with("问题：为什么？\n答案："));
    EXPECT_EQ(question.n_new, 128);
    EXPECT_TRUE(question.has_template);
}

TEST(LongBench, CutsBetweenChineseCharacters) {
    TemporaryFolder folder;
    std::string text;
    for (int i = 0; i < 500; ++i) text += "会议记录很长很长";
    folder.write("vcsum.jsonl", long_bench_line(text));
    SampleRequest request = request_of(1024);
    request.sources.longbench = folder.path();
    const Sample sample = samples_of("vcsum", request).front();
    EXPECT_LE(count_test_tokens(sample), 1024);
    EXPECT_GE(count_test_tokens(sample), 1024 - 20);
    EXPECT_FALSE(find_invalid_utf8(sample.context));
    EXPECT_NE(sample.source.find("; middle "), std::string::npos) << sample.source;
}

TEST(LongBench, SaysWhatIsWrongWithAFile) {
    TemporaryFolder folder;
    SampleRequest request = request_of(1024, 5);
    expect_error([&] { samples_of("trec", request); }, ErrorCode::kInvalidArgument, "--longbench");
    request.sources.longbench = folder.path();
    expect_error([&] { samples_of("trec", request); }, ErrorCode::kNotFound, "trec.jsonl");
    const auto refuse = [&](const std::string& text, const char* said) {
        folder.write("trec.jsonl", text);
        expect_error([&] { samples_of("trec", request); }, ErrorCode::kCorrupt, said);
    };
    refuse("", "no lines");
    refuse(long_bench_line("x"), "no field 'all_classes'");
    const json classes = {{"all_classes", {"A", "B"}}};
    refuse(long_bench_line("x", classes) + "{\"input\": \n", "line 2: it is not a JSON object");
    refuse(long_bench_line("x", classes) + "\n[1]\n", "line 3");
    refuse(long_bench_line("x", {{"answers", json::array()}}), "'answers' is empty");
    refuse(long_bench_line("x", {{"answers", {1}}}), "'answers' holds more than texts");
    refuse(long_bench_line("x", {{"all_classes", 5}}), "'all_classes' is not a list");
    folder.write("lsht.jsonl", long_bench_line("x", classes) + long_bench_line("x"));
    expect_error([&] { samples_of("lsht", request); }, ErrorCode::kCorrupt,
                 "line 2: no field 'all_classes'");
}

/// Lines of LongBench-E, of so many words each by what they say.
std::string lines_of_lengths(const std::vector<int64_t>& lengths) {
    std::string lines;
    for (const int64_t length : lengths) {
        lines += long_bench_line("Text of " + std::to_string(length), {{"length", length}});
    }
    return lines;
}

TEST(LongBenchE, HasSamplesOfEachBucket) {
    TemporaryFolder folder;
    folder.write("hotpotqa_e.jsonl",
                 lines_of_lengths({8000, 0, 4000, 3999, 12, 7999, 90000, 5000}));
    SampleRequest request = request_of(1024, 2);
    request.sources.longbench = folder.path();
    std::vector<std::string> got;
    for (const Sample& sample : samples_of("hotpotqa_e", request)) {
        got.push_back(sample.part + sample.context.substr(sample.context.rfind(' ')) + " #" +
                      sample.id);
    }
    // Ids are places in the file: another n gives a sample no other one.
    EXPECT_EQ(got, (std::vector<std::string>{"0-4k 0 #1", "0-4k 3999 #3", "4-8k 4000 #2",
                                             "4-8k 7999 #5", "8k+ 8000 #0", "8k+ 90000 #6"}));
}

TEST(LongBenchE, AsksAsLongBenchDoes) {
    TemporaryFolder folder;
    folder.write("config/dataset2prompt.json", R"({"lcc": "Code: {context}Go on:"})");
    folder.write("lcc_e.jsonl", long_bench_line("a = 1\n", {{"length", 4001}}));
    SampleRequest request = request_of(1024);
    request.sources.longbench = folder.path();
    const Sample sample = samples_of("lcc_e", request).front();
    EXPECT_EQ(sample.context, "Code: a = 1\n");
    EXPECT_EQ(sample.question, "Go on:");
    EXPECT_EQ(sample.references, (std::vector<std::string>{"the answer", "another"}));
    EXPECT_EQ(sample.n_new, 64);
    EXPECT_FALSE(sample.has_template);
    EXPECT_EQ(sample.part, "4-8k");
}

TEST(LongBenchE, SaysWhatIsWrongWithAFile) {
    TemporaryFolder folder;
    SampleRequest request = request_of(1024);
    expect_error([&] { samples_of("lcc_e", request); }, ErrorCode::kInvalidArgument, "--longbench");
    request.sources.longbench = folder.path();
    expect_error([&] { samples_of("lcc_e", request); }, ErrorCode::kNotFound, "lcc_e.jsonl");
    const auto refuse = [&](const json& length, const char* said) {
        folder.write("lcc_e.jsonl", lines_of_lengths({1}) + long_bench_line("x", length));
        expect_error([&] { samples_of("lcc_e", request); }, ErrorCode::kCorrupt, said);
    };
    for (const json& length : {json("long"), json(-1), json(1.5), json(nullptr)}) {
        refuse({{"length", length}}, "line 2: field 'length' is not a whole number from 0");
    }
    folder.write("lcc_e.jsonl", R"({"input": "", "context": "x", "answers": ["y"]})");
    expect_error([&] { samples_of("lcc_e", request); }, ErrorCode::kCorrupt,
                 "line 1: no field 'length'");
    folder.write("lcc_e.jsonl", lines_of_lengths({1}) + "{\n");
    expect_error([&] { samples_of("lcc_e", request); }, ErrorCode::kCorrupt, "line 2: it is not");
}

json many_icl_row() {
    return {{"1k", "Query: a\nIntent: x\n"},
            {"2k", {"Query: a\nIntent: x\n" + testing::prose(60)}},
            {"Test Data", {"Query: b\nIntent: ", "Query: c\nIntent: "}},
            {"Test Target", {"x", "y"}}};
}

TEST(ManyIcl, TakesTheLongestDemonstrationsThatFit) {
    TemporaryFolder folder;
    folder.write("banking77/seed0.jsonl", many_icl_row().dump() + "\n");
    SampleRequest request = request_of(500, 9, 42);  // 42 modulo 3 is 0
    request.sources.many_icl = folder.path();
    const auto samples = samples_of("banking77", request);
    ASSERT_EQ(samples.size(), 2U);
    EXPECT_EQ(samples[0].context, "Query: a\nIntent: x\n");
    EXPECT_EQ(samples[1].question, "Query: c\nIntent: ");
    EXPECT_EQ(samples[1].references, (std::vector<std::string>{"y"}));
    EXPECT_NE(samples[0].source.find("1k, seed 0"), std::string::npos);
    request.length = 4096;
    EXPECT_GT(samples_of("banking77", request)[0].context.size(), 1000U);
    request.length = 20;
    expect_error([&] { samples_of("banking77", request); }, ErrorCode::kInvalidArgument, "20");
}

TEST(ManyIcl, LeavesRoomForLongAnswers) {
    TemporaryFolder folder;
    SampleRequest request = request_of(4096);
    request.sources.many_icl = folder.path();
    const std::vector<std::pair<std::string, int64_t>> rooms = {{"clinc150", 24},
                                                                {"dialogRE", 200},
                                                                {"XLSUM", 128},
                                                                {"GPQA_cot", 400},
                                                                {"MT_Chinese", 200}};
    for (const auto& [task, n_new] : rooms) {
        folder.write(task + "/seed0.jsonl", many_icl_row().dump());
        EXPECT_EQ(samples_of(task, request).front().n_new, n_new) << task;
    }
}

TEST(ManyIcl, ReadsListsInsideListsAndARowInAList) {
    TemporaryFolder folder;
    json row = many_icl_row();
    for (const char* name : {"Test Data", "Test Target"}) row[name] = json::array({row[name]});
    folder.write("GSM8K/seed1.json", json::array({row}).dump());
    SampleRequest request = request_of(900, 1, 1);
    request.sources.many_icl = folder.path();
    EXPECT_EQ(samples_of("GSM8K", request)[0].question, "Query: b\nIntent: ");
}

TEST(ManyIcl, SaysWhatIsWrongWithAFile) {
    TemporaryFolder folder;
    SampleRequest request = request_of(900);
    expect_error([&] { samples_of("GPQA", request); }, ErrorCode::kInvalidArgument, "--many-icl");
    request.sources.many_icl = folder.path();
    expect_error([&] { samples_of("GPQA", request); }, ErrorCode::kNotFound, "seed0.jsonl");
    json row = many_icl_row();
    row["Test Target"] = {"x"};
    folder.write("GPQA/seed0.json", row.dump());
    expect_error([&] { samples_of("GPQA", request); }, ErrorCode::kCorrupt, "2 questions");
}

TEST(ManyIcl, SaysHowToMakeJsonOfParquet) {
    TemporaryFolder folder;
    folder.write("GPQA/GPQA_1.parquet", "PAR1");
    SampleRequest request = request_of(900, 1, 7);  // 7 modulo 3 is 1
    request.sources.many_icl = folder.path();
    const auto samples = [&] { return samples_of("GPQA", request); };
    expect_error(samples, ErrorCode::kNotFound,
                 "pandas.read_parquet('" + folder.path() + "/GPQA/GPQA_1.parquet').to_json('" +
                     folder.path() + "/GPQA/seed1.jsonl'");
    folder.write("GPQA/seed1.jsonl", many_icl_row().dump());
    EXPECT_EQ(samples().size(), 1U);  // once there is one, the other is no matter
    request.seed = 0;
    expect_error(samples, ErrorCode::kNotFound, "GPQA_0.parquet");
    folder.write("ARC-Easy/notes.txt", "no data");
    expect_error([&] { samples_of("ARC-Easy", request); }, ErrorCode::kNotFound,
                 "ARC-Easy/seed0.jsonl'; is it there?");
}

std::string ready_line() {
    const json line = {{"index", 0},
                       {"input", "Remember.\n\ntext 123\nWhat is it?"},
                       {"outputs", {"123"}},
                       {"answer_prefix", " It is"},
                       {"length", 99}};
    return line.dump() + "\n";
}

TEST(ReadySamples, EndTheContextAtTheLastLineBreak) {
    TemporaryFolder folder;
    folder.write("2048/vt.jsonl", ready_line() + ready_line());
    SampleRequest request = request_of(2048, 10);
    request.sources.ready = folder.path() + "/";
    const auto samples = samples_of("vt", request);
    ASSERT_EQ(samples.size(), 2U);
    EXPECT_EQ(samples[1].id, "1");
    EXPECT_EQ(samples[0].context, "Remember.\n\ntext 123\n");
    EXPECT_EQ(samples[0].question, "What is it?");
    EXPECT_EQ(samples[0].answer_prefix, " It is");
    EXPECT_EQ(samples[0].n_new, 30);
    EXPECT_TRUE(samples[0].source.starts_with("RULER samples: palimpsest-test-folder"));
}

TEST(ReadySamples, SayWhichLengthsThereAre) {
    TemporaryFolder folder;
    for (const char* name : {"2048/vt.jsonl", "512/vt.jsonl", "notes/vt.jsonl"}) {
        folder.write(name, ready_line());
    }
    SampleRequest request = request_of(4096);
    request.sources.ready = folder.path();
    expect_error([&] { samples_of("vt", request); }, ErrorCode::kNotFound, ": 512, 2048");
    expect_error([&] { samples_of("fwe", request); }, ErrorCode::kNotFound, "no length has fwe");
    request.sources.ready = "no/such/folder";
    expect_error([&] { samples_of("vt", request); }, ErrorCode::kNotFound, "no/such/folder");
}

TEST(ReadySamples, SayWhatIsWrongWithALine) {
    TemporaryFolder folder;
    folder.write("512/vt.jsonl", ready_line() + "{}\n");
    folder.write("512/cwe.jsonl",
                 R"({"input": "no break", "outputs": ["x"], "answer_prefix": ""})");
    SampleRequest request = request_of(512, 2);
    request.sources.ready = folder.path();
    expect_error([&] { samples_of("vt", request); }, ErrorCode::kCorrupt, "line 2: no field");
    expect_error([&] { samples_of("cwe", request); }, ErrorCode::kCorrupt, "no line break");
}

void expect_split_at_its_question(const TaskKind& kind, const Sample& sample) {
    const bool is_needle = kind.name.starts_with("niah_");
    EXPECT_TRUE(sample.question.starts_with(is_needle ? "What " : "Question: ")) << kind.name;
    EXPECT_TRUE(!is_needle || sample.question.ends_with("mentioned in the provided text?"));
    EXPECT_FALSE(sample.references.empty());
    for (const std::string& reference : sample.references) {
        EXPECT_NE(sample.context.find(reference), std::string::npos) << kind.name;
        EXPECT_EQ(sample.question.find(reference), std::string::npos) << kind.name;
    }
}

TEST(ReadySamples, OfRulersOwnGeneratorsSplitAtTheirQuestions) {
    REQUIRE_RULER();
    SampleRequest request = request_of(2048, 100);
    request.sources.ready = ruler_folder->string();
    for (const TaskKind& kind : task_kinds()) {
        if (kind.group != "ruler" || kind.name.starts_with("qa_")) continue;
        for (const int64_t length : {2048, 4096}) {
            request.length = length;
            const auto samples = kind.samples(kind.name, request);
            EXPECT_EQ(samples.size(), 40U) << kind.name;
            for (const Sample& sample : samples) expect_split_at_its_question(kind, sample);
        }
    }
}

}  // namespace
}  // namespace palimpsest
