// The needle grid, many-shot classification and windows of a text.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "bench/tasks/metrics.h"
#include "core/error.h"
#include "support/golden.h"
#include "support/task_files.h"

namespace palimpsest {
namespace {

using testing::count_of;
using testing::count_test_tokens;
using testing::request_of;
using testing::samples_of;
using testing::TemporaryFile;

void expect_fits(const Sample& sample, int64_t length) {
    const int64_t n = count_test_tokens(sample);
    EXPECT_LE(n, length);
    EXPECT_GE(n, length - length / 50);
}

TEST(NeedleGrid, HasElevenDepthsAndAsManyNeedlesEach) {
    std::map<double, int> n_at;
    std::set<std::string> ids;
    for (const Sample& sample : samples_of("needle", request_of(1024, 2))) {
        ++n_at[sample.depth];
        ids.insert(sample.id);
        EXPECT_EQ(count_of(sample.context, "One of the special magic "), 1U);
        EXPECT_EQ(count_of(sample.context, sample.references[0]), 1U);
        EXPECT_NE(sample.source.find("noise sentences"), std::string::npos);
    }
    EXPECT_EQ(n_at.size(), 11U);
    EXPECT_EQ(n_at.begin()->first, 0);
    EXPECT_EQ(n_at.rbegin()->first, 1);
    EXPECT_EQ(ids.size(), 22U);
}

TEST(NeedleGrid, PutsTheNeedleBehindASentenceAtTheDepth) {
    const TemporaryFile text(testing::prose(900));
    for (const bool has_text : {false, true}) {
        SampleRequest request = request_of(8192);
        if (has_text) request.sources.haystack = text.path();
        for (const Sample& sample : samples_of("needle", request)) {
            const size_t at = sample.context.find("One of the special magic ");
            const size_t begin = sample.context.find('\n') + 1;
            const size_t needle =
                sample.context.find("is: ", at) - at + sample.references[0].size() + 6;
            const auto before = static_cast<double>(at - begin);
            const auto all = static_cast<double>(sample.context.size() - begin - needle);
            // Back to the sentence's start: 25 words at most.
            EXPECT_LE(before / all, sample.depth + 1e-9);
            EXPECT_NEAR(before / all, sample.depth, 250 / all);
            EXPECT_TRUE(at == begin || sample.context[at - 2] == '.' || sample.depth == 1);
            expect_fits(sample, 8192);
        }
    }
}

TEST(NeedleGrid, TakesNumbersAndUuidsInTurn) {
    SampleRequest request = request_of(512, 4);
    request.depths = {0.5};
    const auto samples = samples_of("needle", request);
    ASSERT_EQ(samples.size(), 4U);
    EXPECT_EQ(samples[0].references[0].size(), 7U);
    EXPECT_EQ(samples[1].references[0].size(), 36U);
    EXPECT_EQ(samples[2].references[0].size(), 7U);
    EXPECT_EQ(samples[3].references[0][14], '4');
    for (const Sample& sample : samples) expect_fits(sample, 512);
}

TEST(NeedleGrid, FitsLongContexts) {
    SampleRequest request = request_of(32768);
    request.depths = {0.3};
    expect_fits(samples_of("needle", request).front(), 32768);
}

TEST(NeedleGrid, RefusesDepthsOutsideTheText) {
    for (const double depth : {-0.1, 1.5, std::numeric_limits<double>::quiet_NaN()}) {
        SampleRequest request = request_of(1024);
        request.depths = {depth};
        EXPECT_THROW(samples_of("needle", request), Error);
    }
}

struct Demonstrations {
    std::map<std::string, int> by_label;
    std::set<std::string> texts;
};

Demonstrations demonstrations_of(const Sample& sample) {
    Demonstrations found;
    for (size_t at = sample.context.find("Text: "); at != std::string::npos;
         at = sample.context.find("Text: ", at + 1)) {
        const size_t end = sample.context.find('\n', at);
        const size_t label = end + sizeof("\nLabel: ") - 1;
        found.texts.insert(sample.context.substr(at + 6, end - at - 6));
        ++found.by_label[sample.context.substr(label, sample.context.find('\n', label) - label)];
    }
    return found;
}

TEST(ManyShot, ShowsEveryClassAsOftenAndNotTheQuestion) {
    for (const int64_t length : {512, 2048, 8192, 32768}) {
        for (const Sample& sample : samples_of("many-shot", request_of(length, 2))) {
            const Demonstrations shown = demonstrations_of(sample);
            const auto n_class = static_cast<size_t>(std::clamp<int64_t>(length / 128, 8, 64));
            EXPECT_EQ(shown.by_label.size(), n_class);
            EXPECT_EQ(sample.classes.size(), n_class);
            int least = std::numeric_limits<int>::max(), most = 0;
            for (const auto& [label, n] : shown.by_label) {
                EXPECT_NE(std::ranges::find(sample.classes, label), sample.classes.end());
                least = std::min(least, n);
                most = std::max(most, n);
            }
            EXPECT_LE(most - least, 1);
            EXPECT_TRUE(shown.by_label.contains(sample.references[0]));
            const std::string asked = sample.question.substr(6, sample.question.size() - 7);
            EXPECT_FALSE(shown.texts.contains(asked));
            expect_fits(sample, length);
        }
    }
}

TEST(ManyShot, IsJudgedByTheLabelItPredicts) {
    const Sample sample = samples_of("many-shot", request_of(1024)).front();
    const std::string output = " " + sample.references[0] + "\n\nText: more";
    EXPECT_EQ(kAccuracyMetric.score(output, sample), 1);
    EXPECT_EQ(kAccuracyMetric.predicted(output, sample), sample.references[0]);
    EXPECT_FALSE(sample.has_template);
    EXPECT_EQ(sample.answer_prefix, "Label:");
}

TEST(ManyShot, RefusesALengthThatCannotShowEveryClass) {
    EXPECT_THROW(samples_of("many-shot", request_of(100)), Error);
}

TEST(TextWindows, FillTheLengthWithAContextAndItsContinuation) {
    const std::string text = testing::prose(4000);
    const TemporaryFile file(text);
    for (const int64_t length : {512, 2048, 8192, 32768}) {
        SampleRequest request = request_of(length, 5);
        request.sources.text = file.path();
        for (const Sample& sample : samples_of("text", request)) {
            EXPECT_NE(text.find(sample.context + sample.question), std::string::npos);
            Sample context = sample;
            context.question.clear();
            const int64_t n_continuation = std::min<int64_t>(512, length / 4);
            EXPECT_LE(count_test_tokens(context), length - n_continuation);
            EXPECT_GE(count_test_tokens(context), length - n_continuation - length / 50);
            EXPECT_EQ(sample.n_new, 0);
            EXPECT_FALSE(sample.has_template);
            expect_fits(sample, length);
        }
    }
}

TEST(TextWindows, LieOverTheWholeText) {
    const std::string text = testing::prose(2000);
    const TemporaryFile file(text);
    SampleRequest request = request_of(512, 8);
    request.sources.text = file.path();
    const auto samples = samples_of("text", request);
    size_t before = 0;
    for (const Sample& sample : samples) {
        const size_t at = text.find(sample.context);
        EXPECT_GE(at, before);
        before = at + 1;
    }
    EXPECT_LT(text.find(samples.front().context), text.size() / 8);
    EXPECT_GT(text.find(samples.back().context), text.size() / 2);
}

TEST(TextWindows, RefuseATextThatIsTooShortWithBothNumbers) {
    const TemporaryFile file(testing::prose(10));
    SampleRequest request = request_of(4096);
    request.sources.text = file.path();
    try {
        samples_of("text", request);
        FAIL();
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
        EXPECT_NE(std::string(error.what()).find("4096"), std::string::npos);
    }
}

TEST(TextWindows, SayWhichFlagNamesTheText) {
    try {
        samples_of("text", request_of(512));
        FAIL();
    } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find("--text FILE"), std::string::npos);
    }
}

TEST(DocumentQuestions, AskForWhatStandsOnceByTheWordsAroundIt) {
    const std::string text = testing::prose_with_facts(60);
    const TemporaryFile file(text);
    SampleRequest request = request_of(1024, 6);
    request.sources.haystack = file.path();
    for (const char* task : {"doc_number", "doc_date", "doc_name", "doc_section"}) {
        SCOPED_TRACE(task);
        std::set<std::string> contexts;
        for (const Sample& sample : samples_of(task, request)) {
            EXPECT_EQ(count_of(sample.context, sample.references.at(0)), 1U) << sample.context;
            EXPECT_EQ(count_of(sample.question, sample.references[0]), 0U);
            const size_t at = sample.question.find('"') + 1;
            const std::string asked = sample.question.substr(at, sample.question.rfind('"') - at);
            EXPECT_EQ(count_of(sample.context, asked), 1U) << asked;
            // The answer goes on where its beginning ends.
            const std::string begun =
                sample.answer_prefix.substr(sample.answer_prefix.find('"') + 1);
            EXPECT_TRUE(begun.starts_with(asked) && begun.size() > asked.size()) << begun;
            EXPECT_EQ(count_of(sample.context, cat(begun, " ", sample.references[0])), 1U);
            EXPECT_LE(count_test_tokens(sample), 1024);
            EXPECT_GE(count_test_tokens(sample), 1024 - 128);
            contexts.insert(sample.context);
        }
        EXPECT_GT(contexts.size(), 3U);  // windows from all over
    }
}

TEST(DocumentQuestions, TakeNoFactThatStandsTwice) {
    std::string text;
    for (int i = 0; i < 300; ++i) {
        text += "The same again\n\n";
        text += "Once more they all came home and paid 1234 pounds to Ranfurly on 3 May 1999, ";
        text += "and went away again as they had come, all of them.\n\n";
    }
    const TemporaryFile file(text);
    SampleRequest request = request_of(512);
    request.sources.haystack = file.path();
    for (const char* task : {"doc_number", "doc_date", "doc_name", "doc_section"}) {
        try {
            samples_of(task, request);
            FAIL() << task;
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
            EXPECT_NE(std::string(error.what()).find("name another text"), std::string::npos);
        }
    }
}

TEST(GeneratedTasks, AreTheSameBytesForASeedEverywhere) {
    const TemporaryFile file(testing::prose(600)), facts(testing::prose_with_facts(60));
    const std::map<std::string, uint64_t> hashes = {{"needle", 0xca0698311f06f762ULL},
                                                    {"many-shot", 0xe4dec5eeae986f85ULL},
                                                    {"text", 0x194c4043ce02a9e9ULL},
                                                    {"doc_number", 0x3c7cf35620b22e0bULL},
                                                    {"doc_section", 0xb7be03217d172c86ULL}};
    for (const auto& [task, hash] : hashes) {
        SampleRequest request = request_of(1024, 2);
        request.sources.text = file.path();
        if (task.starts_with("doc_")) request.sources.haystack = facts.path();
        const uint64_t found = testing::hash_of(samples_of(task, request));
        EXPECT_EQ(found, hash) << task;
        request.seed = 43;
        EXPECT_NE(found, testing::hash_of(samples_of(task, request))) << task;
    }
}

}  // namespace
}  // namespace palimpsest
