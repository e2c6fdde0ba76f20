// Samples as models read them: split where the question begins, and nothing added or lost by it.

#include "bench/quality/sample_prompt.h"

#include <gtest/gtest.h>

#include "support/vocabularies.h"

namespace palimpsest {
namespace {

std::vector<TokenId> whole(const SamplePrompt& p) {
    std::vector<TokenId> all = p.context;
    all.insert(all.end(), p.question.begin(), p.question.end());
    all.insert(all.end(), p.ending.begin(), p.ending.end());
    return all;
}

/// A document stands as one row.
class OneRow final : public Regions {
 public:
    [[nodiscard]] std::vector<Segment> region(std::string_view /*document*/) const override {
        return {{.rows = {0.0F}}};
    }
    [[nodiscard]] std::vector<TokenId> never_written() const override { return {}; }
};

TEST(SamplePrompt, IsTheWholeTextWhereverTheQuestionBegins) {
    size_t n = 0;
    for (const testing::Vocabulary& v : testing::vocabularies()) {
        for (const std::string& text : testing::kSeamTexts) {
            for (const std::string& question : testing::kSeamTexts) {
                SCOPED_TRACE(v.name() + ": '" + text + "' + '" + question + "'");
                Sample sample;
                sample.context = "hello " + text;
                sample.question = question;
                const SamplePrompt prompt = encode_sample(v.ours(), sample, false);
                EXPECT_EQ(whole(prompt), v.theirs(sample.context + question, true, false));
                EXPECT_FALSE(prompt.context.empty());
                EXPECT_EQ(prompt.question.empty(), question.empty());
                EXPECT_TRUE(prompt.ending.empty());
                ++n;
            }
        }
    }
    EXPECT_GE(n, 400U);
}

TEST(SamplePrompt, RegionsEndWhereTheQuestionBegins) {
    for (const testing::Vocabulary& v : testing::vocabularies()) {
        SCOPED_TRACE(v.name());
        Sample sample;
        sample.context = "hello hello\n";
        sample.question = "hello";
        const OneRow regions;
        const std::vector<Segment> context = encode_context(v.ours(), sample, false, regions);
        size_t n_rows = 0;
        std::vector<TokenId> behind;
        for (const Segment& s : context) {
            if (s.has_rows()) {
                ++n_rows;
                behind.clear();
            } else {
                behind.insert(behind.end(), s.tokens.begin(), s.tokens.end());
            }
        }
        EXPECT_EQ(n_rows, 1U);
        // The line break that ends the document is text.
        EXPECT_FALSE(behind.empty());
    }
}

}  // namespace
}  // namespace palimpsest
