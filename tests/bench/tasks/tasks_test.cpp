// The table of tasks, and every task judged by a stub that is always right, and one always wrong.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "bench/tasks/metrics.h"
#include "core/error.h"
#include "support/task_files.h"

namespace palimpsest {
namespace {

using nlohmann::json;
using testing::TemporaryFolder;

std::vector<std::string> names_of(const std::vector<std::string>& wanted) {
    std::vector<std::string> names;
    for (const TaskKind* kind : find_tasks(wanted)) names.emplace_back(kind->name);
    return names;
}

TEST(Tasks, HaveNamesOfTheirOwnAndAMetric) {
    std::set<std::string_view> names;
    for (const TaskKind& kind : task_kinds()) {
        EXPECT_TRUE(names.insert(kind.name).second) << kind.name;
        ASSERT_NE(kind.metric, nullptr);
        ASSERT_NE(kind.metric->score, nullptr);
        ASSERT_NE(kind.samples, nullptr);
        EXPECT_FALSE(kind.summary.empty());
    }
}

TEST(Tasks, AreFoundByNameAndGroupInTheTablesOrder) {
    EXPECT_EQ(names_of({"vt", "niah_single_1", "vt"}),
              (std::vector<std::string>{"niah_single_1", "vt"}));
    EXPECT_EQ(names_of({"ruler"}).size(), 13U);
    EXPECT_EQ(names_of({"many-icl"}).size(), 18U);
    EXPECT_EQ(names_of({"longbench"}).size(), 21U);
    EXPECT_EQ(names_of({"longbench-e"}).size(), 13U);
    EXPECT_EQ(names_of({"needle", "qa_1"}), (std::vector<std::string>{"qa_1", "needle"}));
    EXPECT_EQ(names_of({"all"}).size(), task_kinds().size());
    EXPECT_TRUE(names_of({}).empty());
}

TEST(Tasks, OfLongBenchEAreJudgedAsThoseOfLongBench) {
    for (const TaskKind* kind : find_tasks(std::vector<std::string>{"longbench-e"})) {
        const std::string name(kind->name.substr(0, kind->name.size() - 2));
        EXPECT_EQ(kind->metric, find_tasks({&name, 1}).front()->metric) << name;
    }
}

TEST(Tasks, AreCalledByTheirNameAndTheSamplesPart) {
    Sample sample;
    const std::string name = "qasper_e";
    const TaskKind& kind = *find_tasks({&name, 1}).front();
    EXPECT_EQ(result_name(kind, sample), "qasper_e");
    sample.part = "4-8k";
    EXPECT_EQ(result_name(kind, sample), "qasper_e 4-8k");
}

TEST(Tasks, SuggestTheNearestNameForAnUnknownOne) {
    try {
        names_of({"vt", "niah_singel_1"});
        FAIL();
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kNotFound);
        EXPECT_NE(std::string(error.what()).find("did you mean 'niah_single_1'"),
                  std::string::npos);
    }
}

/// Files for every task, whose right answers share no letter with the wrong one.
class Files {
 public:
    Files() {
        const json document = {{"context", "Hidden here."},
                               {"qas", {{{"question", "q?"}, {"answers", {{{"text", "here"}}}}}}}};
        const json other = {{"context", testing::prose(9)}, {"qas", json::array()}};
        sources.haystack = folder_.write("prose.txt", testing::prose_with_facts(60));
        sources.text = sources.haystack;
        sources.squad = folder_.write(
            "squad.json", json({{"data", {{{"paragraphs", {document, other}}}}}}).dump());
        json question = {{"question", "q?"}, {"answer", "here"}};
        for (const char* text : {"Hidden here.", "No."}) {
            question["context"].push_back(json::array({"Title", json::array({text})}));
        }
        sources.hotpotqa = folder_.write("hotpot.json", json::array({question}).dump());
        const json line = {{"input", "in"},
                           {"context", "some text"},
                           {"answers", {"Paragraph 7"}},
                           {"all_classes", {"Paragraph 7", "Paragraph 8"}},
                           {"length", 2}};
        json numbers = line;
        numbers["answers"] = {"7"};
        const json row = {{"1k", "Text: a\nLabel: b\n"},
                          {"Test Data", {"Text: a\nLabel:"}},
                          {"Test Target", {"#### 7"}}};
        for (const TaskKind& kind : task_kinds()) {
            const std::string name(kind.name);
            const bool counts = name.starts_with("passage_count");
            if (kind.group.starts_with("longbench")) {
                folder_.write(name + ".jsonl", (counts ? numbers : line).dump());
            }
            if (kind.group == "many-icl") folder_.write(name + "/seed0.jsonl", row.dump());
        }
        sources.longbench = sources.many_icl = folder_.path();
    }

    TaskSources sources;

 private:
    TemporaryFolder folder_;
};

TEST(Tasks, GiveAStubThatIsAlwaysRightEverythingAndAWrongOneNothing) {
    const Files files;
    for (const TaskKind& kind : task_kinds()) {
        if (kind.metric == &kKlMetric) continue;
        SampleRequest request = testing::request_of(2048, 3);
        request.sources = files.sources;
        const auto samples = kind.samples(kind.name, request);
        ASSERT_FALSE(samples.empty()) << kind.name;
        for (const Sample& sample : samples) {
            const std::string right = testing::right_answer(kind, sample);
            EXPECT_NEAR(kind.metric->score(right, sample), 1, 1e-8) << kind.name;
            EXPECT_EQ(kind.metric->score("zzqx", sample), 0) << kind.name;
            EXPECT_EQ(kind.metric->score("", sample), 0) << kind.name;
        }
    }
}

TEST(Tasks, WhoseScoreOnlyRisesDoNotLoseItByMoreText) {
    const Files files;
    for (const TaskKind& kind : task_kinds()) {
        if (!kind.metric->only_rises) continue;
        SampleRequest request = testing::request_of(2048);
        request.sources = files.sources;
        const Sample sample = kind.samples(kind.name, request).front();
        const std::string whole = testing::right_answer(kind, sample) + "88 and more\n";
        double before = 0;
        for (size_t n = 0; n <= whole.size(); ++n) {
            const double score = kind.metric->score(whole.substr(0, n), sample);
            EXPECT_GE(score, before) << kind.name;
            before = score;
        }
        EXPECT_EQ(before, 1) << kind.name;
    }
}

TEST(Tasks, HaveSamplesWhoseIdsDiffer) {
    const Files files;
    for (const TaskKind& kind : task_kinds()) {
        SampleRequest request = testing::request_of(2048, 3);
        request.sources = files.sources;
        std::set<std::string> ids;
        for (const Sample& sample : kind.samples(kind.name, request)) {
            EXPECT_TRUE(ids.insert(sample.id).second) << kind.name;
        }
    }
}

}  // namespace
}  // namespace palimpsest
