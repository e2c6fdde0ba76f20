// Training material: what was asked for, the same each time, and nothing that a benchmark uses.

#include "train/material/material.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <unordered_set>

#include "bench/tasks/haystack.h"
#include "bench/tasks/needles.h"
#include "bench/tasks/word_list.h"
#include "core/error.h"
#include "support/golden.h"
#include "train/material/material_facts.h"
#include "train/material/material_grammar.h"

namespace palimpsest {
namespace {

/// Lower-case words of letters and digits.
std::vector<std::string> words_of(std::string_view text) {
    std::vector<std::string> words(1);
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (std::isalnum(byte) != 0) {
            words.back() += static_cast<char>(std::tolower(byte));
        } else if (!words.back().empty()) {
            words.emplace_back();
        }
    }
    if (words.back().empty()) words.pop_back();
    return words;
}

/// All runs of `n` words.
std::vector<std::string> runs_of(std::string_view text, size_t n) {
    const std::vector<std::string> words = words_of(text);
    std::vector<std::string> runs;
    for (size_t i = 0; i + n <= words.size(); ++i) {
        std::string& run = runs.emplace_back();
        for (size_t j = i; j < i + n; ++j) run += words[j] + ' ';
    }
    return runs;
}

std::string a_text(int64_t n_lines) {
    std::string text;
    for (int64_t i = 0; i < n_lines; ++i) {
        text += "Line " + std::to_string(i) + " of a manual that says little.\n";
        if (i % 5 == 4) text += "\n";
    }
    return text;
}

MaterialOptions small(int64_t n_documents) {
    return {.n_documents = n_documents, .n_characters = 6000, .text_share = 0.5, .seed = 3};
}

std::vector<std::string> grams(const std::vector<std::string>& documents, size_t n) {
    std::vector<std::string> all;
    for (const std::string& text : documents) {
        for (std::string& run : runs_of(text, n)) all.push_back(std::move(run));
    }
    return all;
}

TEST(Material, IsWhatWasAskedForAndTheSameEachTime) {
    const std::vector<std::string> texts = {a_text(900), "too short"};
    const std::vector<std::string> documents = make_material(small(40), texts);
    ASSERT_EQ(documents.size(), 40U);
    EXPECT_EQ(documents, make_material(small(40), texts));
    MaterialOptions other = small(40);
    other.seed = 4;
    EXPECT_NE(documents, make_material(other, texts));
    int64_t of_texts = 0;
    for (const std::string& text : documents) {
        EXPECT_GT(text.size(), 3500U);
        EXPECT_LT(text.size(), 8500U);
        // Where questions are announced, some follow.
        EXPECT_FALSE(text.ends_with("knowledge:\n") || text.ends_with("read.\n"));
        of_texts += text.find("of a manual that says little.") != std::string::npos ? 1 : 0;
    }
    EXPECT_EQ(of_texts, 20);
    EXPECT_EQ(std::unordered_set(documents.begin(), documents.end()).size(), documents.size());
}

TEST(Material, QuestionsCanBeAnsweredFromTheText) {
    Random random(5);
    for (int64_t kind = 0; kind < n_fact_kinds(); ++kind) {
        for (int i = 0; i < 50; ++i) {
            const Fact fact = make_fact(kind, random);
            SCOPED_TRACE(fact.statement);
            const auto holds = [](const std::string& text, const std::string& part) {
                return text.find(part) != std::string::npos ||
                       text.find(capitalised(part)) != std::string::npos;
            };
            EXPECT_TRUE(holds(fact.statement, fact.key));
            EXPECT_TRUE(holds(fact.statement, fact.value));
            EXPECT_TRUE(holds(fact.answer, fact.value)) << fact.answer;
            for (const std::string* text : {&fact.statement, &fact.question, &fact.answer}) {
                EXPECT_EQ(text->find_first_of("{}"), std::string::npos) << *text;
            }
        }
    }
    const FactTable table = make_table(random);
    for (const Fact& fact : table.facts) {
        EXPECT_NE(table.text.find(fact.value), std::string::npos);
        EXPECT_NE(fact.answer.find(fact.value), std::string::npos);
    }
}

TEST(Material, RefusesWhatCannotBe) {
    const std::vector<std::string> tiny = {"short"};
    EXPECT_THROW(make_material(small(1), tiny), Error);
    EXPECT_THROW(make_material(small(0), {}), Error);
    MaterialOptions options = small(1);
    options.n_characters = 10;
    EXPECT_THROW(make_material(options, {}), Error);
    options = small(1);
    options.text_share = 1.5;
    EXPECT_THROW(make_material(options, {}), Error);
    EXPECT_EQ(make_material(small(2), {}).size(), 2U);
}

TEST(Material, IsShortWhereThatIsAsked) {
    MaterialOptions options = small(60);
    options.n_characters = 1000;
    for (const std::string& text : make_material(options, {{a_text(900)}})) {
        EXPECT_LT(text.size(), 6000U);
    }
}

TEST(Material, ReplacesWhatIsNoUtf8) {
    std::string broken = a_text(900);
    for (size_t i = 0; i < broken.size(); i += 50) broken[i] = '\xff';
    for (const std::string& text : make_material(small(8), {{broken}})) {
        EXPECT_EQ(text.find('\xff'), std::string::npos);
    }
}

TEST(Material, HasNothingOfTheBenchmarksTemplatesAndWords) {
    std::vector<std::string> forbidden;
    const auto forbid = [&](const std::string& text, size_t n) {
        for (std::string& run : runs_of(text, n)) forbidden.push_back(std::move(run));
    };
    for (const NeedleText kind : {NeedleText::kWords, NeedleText::kNumber, NeedleText::kUuid}) {
        forbid(needle_sentence(kind, "some key", "1234567"), 4);
        const Sample sample = needle_question(kind, {"one", "another"}, false);
        forbid(sample.context, 4);
        forbid(sample.question, 4);
        forbid(sample.answer_prefix, 4);
    }
    for (const std::string& line : noise_lines(5)) forbid(line, 4);
    const std::vector<std::string> found = grams(make_material(small(60), {}), 4);
    const std::unordered_set<std::string> ours(found.begin(), found.end());
    ASSERT_GT(forbidden.size(), 50U);
    for (const std::string& run : forbidden) EXPECT_FALSE(ours.contains(run)) << run;
    const std::vector<std::string> of_two = grams(make_material(small(60), {}), 2);
    const std::unordered_set<std::string> pairs(of_two.begin(), of_two.end());
    Random random(9);
    int64_t shared = 0;
    for (int i = 0; i < 2000; ++i) {
        const std::vector<std::string> run = runs_of(word_pair(random), 2);
        shared += !run.empty() && pairs.contains(run[0]) ? 1 : 0;
    }
    EXPECT_EQ(shared, 0);
}

TEST(Material, HasNoEightWordsOfRuler) {
    REQUIRE_RULER();
    std::unordered_set<std::string> ours;
    for (std::string& run : grams(make_material(small(200), {}), 8)) ours.insert(std::move(run));
    int64_t n_runs = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(*ruler_folder)) {
        if (entry.path().extension() != ".jsonl") continue;
        for (const std::string& run : runs_of(testing::read_text(entry.path()), 8)) {
            ++n_runs;
            ASSERT_FALSE(ours.contains(run)) << run;
        }
    }
    EXPECT_GT(n_runs, 1000);
}

}  // namespace
}  // namespace palimpsest
