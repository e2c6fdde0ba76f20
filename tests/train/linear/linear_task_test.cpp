// What models with recurrent layers learn: every target is right, and what is held out stays so.

#include "train/linear/linear_task.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/error.h"
#include "support/task_files.h"

namespace palimpsest {
namespace {

std::string text_of(const LinearBatch& batch, int64_t sequence) {
    std::string text;
    for (int64_t t = 0; t < batch.length; ++t) {
        text += static_cast<char>(batch.tokens[batch.at(sequence, t)]);
    }
    return text;
}

TEST(RecallTask, ValuesAreThoseOfTheirKeys) {
    const auto task = make_linear_task({.name = "recall", .length = 64, .n_vocab = 64}, nullptr);
    EXPECT_EQ(task->sets(), (std::vector<std::string>{"4 pairs", "8 pairs", "16 pairs"}));
    Random random(3);
    const LinearBatch batch = task->learnt(50, random);
    std::set<int64_t> sizes;
    for (int64_t i = 0; i < batch.n_sequences; ++i) {
        std::map<int64_t, int64_t> pairs;
        int64_t n = 0;
        for (; batch.targets[batch.at(i, n)] < 0 && batch.tokens[batch.at(i, n + 1)] >= 32;
             n += 2) {
            EXPECT_TRUE(
                pairs.emplace(batch.tokens[batch.at(i, n)], batch.tokens[batch.at(i, n + 1)])
                    .second);
            EXPECT_EQ(batch.opens[batch.at(i, n)], 1);
            EXPECT_LT(batch.tokens[batch.at(i, n)], 32);
        }
        size_t n_asked = 0;
        for (int64_t t = n; t < batch.length; ++t) {
            const size_t place = batch.at(i, t);
            if (batch.targets[place] < 0) {
                EXPECT_EQ(batch.tokens[place], 0);
                continue;
            }
            ++n_asked;
            EXPECT_EQ(pairs.at(batch.tokens[place]), batch.targets[place]);
            EXPECT_EQ(batch.sets[place],
                      uint64_t{pairs.size() / 8 * 2 > 2 ? 4U : pairs.size() / 4});
        }
        EXPECT_EQ(n_asked, pairs.size());
        sizes.insert(std::ssize(pairs));
    }
    EXPECT_EQ(sizes, (std::set<int64_t>{4, 8, 16}));
}

TEST(RecallTask, ExaminedSequencesAreTheSameEveryTime) {
    const auto task = make_linear_task(
        {.name = "recall", .length = 32, .n_examined = 10, .n_vocab = 32, .pairs = {4}}, nullptr);
    const auto once = task->examined(4);
    ASSERT_EQ(once.size(), 3U);
    EXPECT_EQ(once[2].n_sequences, 2);
    EXPECT_EQ(once[1].tokens, task->examined(4)[1].tokens);
    EXPECT_NE(once[0].tokens, once[1].tokens);
}

TEST(RecallTask, WhatDoesNotFitIsRefused) {
    const auto make = [](LinearTaskOptions o) { return make_linear_task(o, nullptr); };
    EXPECT_THROW(make({.name = "recall", .length = 12}), Error);
    EXPECT_THROW(make({.name = "recall", .length = 64, .pairs = {17}}), Error);
    EXPECT_THROW(make({.name = "recall", .length = 64, .n_vocab = 8, .pairs = {8}}), Error);
    EXPECT_THROW(make({.name = "recal"}), Error);
}

class TextTasks : public ::testing::Test {
 protected:
    TextTasks() {
        std::string learnt;
        std::string held_out = "A line that both of the texts have, word for word.\n";
        for (int i = 0; i < 400; ++i) {
            learnt += cat("Rule ", i, " says to pay ", i * i % 97, " to the house.\n");
            held_out += cat("Step ", i * 7 % 400, " of the plan: wait ", i % 13, " days.\n");
        }
        folder_.write("a.txt", learnt + "A line that both of the texts have, word for word.\n");
        folder_.write("b.txt", held_out);
    }
    [[nodiscard]] LinearTaskOptions options(const std::string& name, int64_t length) const {
        return {.name = name,
                .length = length,
                .n_examined = 20,
                .documents = {folder_.path() + "/a.txt"},
                .held_out = {folder_.path() + "/b.txt"}};
    }
    testing::TemporaryFolder folder_;
};

TEST_F(TextTasks, EveryTargetIsTheNextByte) {
    const auto task = make_linear_task(options("text", 300), nullptr);
    EXPECT_EQ(task->n_vocab(), kByteVocabulary);
    Random random(1);
    const LinearBatch batch = task->learnt(3, random);
    for (int64_t i = 0; i < 3; ++i) {
        EXPECT_NE(text_of(batch, i).find("to the house"), std::string::npos);
        for (int64_t t = 0; t + 1 < batch.length; ++t) {
            EXPECT_EQ(batch.targets[batch.at(i, t)], batch.tokens[batch.at(i, t + 1)]);
        }
    }
    std::set<int64_t> lengths;
    uint64_t seen = 0;
    for (const LinearBatch& b : task->examined(4)) {
        lengths.insert(b.length);
        for (int64_t i = 0; i < b.n_sequences; ++i) {
            const std::string text = text_of(b, i);
            EXPECT_EQ(text.find("house"), std::string::npos);
            EXPECT_EQ(text.find("word for word"), std::string::npos);
        }
        for (const uint64_t sets : b.sets) seen |= sets;
        // In long ones only what is beyond the learnt length counts.
        if (b.length > 300) {
            EXPECT_EQ(b.sets[b.at(0, 299)], 0U);
            EXPECT_EQ(b.sets[b.at(0, 300)] & 3U, 2U);
        }
    }
    EXPECT_EQ(lengths, (std::set<int64_t>{300, 1200}));
    EXPECT_EQ(seen & 7U, 7U);  // all, beyond, seen before
}

TEST_F(TextTasks, CodesStandWhereTheyAreAskedFor) {
    const auto task = make_linear_task(options("needles", 256), nullptr);
    const auto all = task->examined(8);
    int n_asked = 0;
    for (const LinearBatch& batch : all) {
        for (int64_t i = 0; i < batch.n_sequences; ++i) {
            std::string code;
            for (int64_t t = 0; t < batch.length; ++t) {
                const size_t place = batch.at(i, t);
                if (batch.targets[place] >= 0 && (batch.sets[place] & 63U) != 0) {
                    code += static_cast<char>(batch.targets[place]);
                }
            }
            if (code.empty()) continue;  // plain text
            ++n_asked;
            const std::string text = text_of(batch, i);
            ASSERT_EQ(code.size(), 4U);
            EXPECT_TRUE(text.ends_with(code));
            const size_t question = text.rfind("\nThe code of ");
            const std::string asked = text.substr(question, text.size() - question - 4);
            const size_t needle = text.find(asked + code + ".\n");
            ASSERT_NE(needle, std::string::npos);
            EXPECT_LT(needle, question);
            EXPECT_EQ(batch.opens[batch.at(i, static_cast<int64_t>(needle))], 1);
            // Nobody else has this name.
            EXPECT_EQ(text.find(asked, needle + 1), question);
        }
    }
    EXPECT_EQ(n_asked, 6 * 20);
}

TEST_F(TextTasks, TextsAreNeeded) {
    LinearTaskOptions o = options("text", 64);
    o.held_out.clear();
    EXPECT_THROW(static_cast<void>(make_linear_task(o, nullptr)), Error);
    EXPECT_THROW(static_cast<void>(make_linear_task(options("text", 100000), nullptr)), Error);
    EXPECT_THROW(static_cast<void>(make_linear_task(options("needles", 100), nullptr)), Error);
}

}  // namespace
}  // namespace palimpsest
