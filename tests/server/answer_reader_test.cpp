// What a stream tells of an answer is what the whole answer says.

#include <gtest/gtest.h>

#include "server/api/answer_run.h"
#include "text/json_text.h"

namespace palimpsest {
namespace {

/// A protocol that reads "THINK...|" and "CALL name args;" out of a text, and is as fickle about
/// unfinished ones as real ones are.
class MarkProtocol final : public ToolProtocol {
 public:
    [[nodiscard]] const std::string& grammar() const override { return none_; }
    [[nodiscard]] const std::vector<GrammarTrigger>& triggers() const override { return triggers_; }
    [[nodiscard]] const std::vector<std::string>& stops() const override { return stops_; }
    [[nodiscard]] const std::string& instructions() const override { return none_; }
    [[nodiscard]] ParsedAnswer parse(const std::string& answer, bool is_partial) const override {
        ParsedAnswer parsed;
        std::string rest = answer;
        if (is_partial) {  // what may yet become a mark is held back
            for (const std::string& mark : {std::string("THINK "), std::string("CALL ")}) {
                for (size_t n = mark.size() - 1; n > 0; --n) {
                    if (!rest.ends_with(mark.substr(0, n))) continue;
                    rest.resize(rest.size() - n);
                    break;
                }
            }
        }
        if (rest.starts_with("THINK ")) {
            const size_t end = rest.find('|');
            parsed.reasoning = rest.substr(6, end == std::string::npos ? end : end - 6);
            rest = end == std::string::npos ? "" : rest.substr(end + 1);
        }
        for (size_t at = rest.find("CALL "); at != std::string::npos; at = rest.find("CALL ")) {
            parsed.content += rest.substr(0, at);
            rest = rest.substr(at + 5);
            const size_t space = rest.find(' ');
            const size_t end = rest.find(';');
            if (end == std::string::npos && !is_partial) throw Error(ErrorCode::kCorrupt, "cut");
            const std::string name = rest.substr(0, space);
            std::string arguments =
                space == std::string::npos ? "" : rest.substr(space + 1, end - space - 1);
            if (end == std::string::npos) arguments += "\"}";  // healed
            if (space != std::string::npos) {
                parsed.calls.push_back({.name = name, .arguments = arguments, .id = {}});
            }
            rest = end == std::string::npos ? "" : rest.substr(end + 1);
        }
        parsed.content += rest;
        return parsed;
    }

 private:
    std::string none_;
    std::vector<GrammarTrigger> triggers_;
    std::vector<std::string> stops_;
};

struct Told {
    std::string content, reasoning;
    std::vector<ToolCall> calls;

    void add(const AnswerDelta& d) {
        content += d.content;
        reasoning += d.reasoning;
        for (const AnswerDelta::Call& c : d.calls) {
            if (!c.name.empty()) {
                EXPECT_EQ(c.index, calls.size());
                calls.push_back({.name = c.name, .arguments = {}, .id = c.id});
            }
            calls[c.index].arguments += c.arguments;
        }
    }
};

TEST(AnswerReader, PiecesOfAnySizeComeToTheSame) {
    const std::string answer =
        "THINK so and so|I will look. CALL find {\"x\": \"1\"};CALL find {\"y\": \"2\"};Done.";
    for (size_t size = 1; size < answer.size() + 5; ++size) {
        AnswerReader reader(std::make_shared<MarkProtocol>());
        Told told;
        for (size_t at = 0; at < answer.size(); at += size) {
            told.add(reader.add(answer.substr(at, size)));
        }
        told.add(reader.finish());
        EXPECT_EQ(told.reasoning, "so and so") << size;
        EXPECT_TRUE(told.content.starts_with("I will look. ")) << size << told.content;
        ASSERT_EQ(told.calls.size(), 2U) << size;
        EXPECT_EQ(told.calls[0].arguments, "{\"x\": \"1\"}") << size;
        EXPECT_EQ(told.calls[1].arguments, "{\"y\": \"2\"}") << size;
        EXPECT_FALSE(told.calls[0].id.empty());
        EXPECT_EQ(told.content, reader.parsed().content);
        EXPECT_EQ(told.calls[1].id, reader.parsed().calls[1].id);
    }
}

TEST(AnswerReader, WhatIsCutShortIsToldAsFarAsItGoes) {
    AnswerReader reader(std::make_shared<MarkProtocol>());
    Told told;
    for (const char c : std::string("Yes. CALL find {\"x\": \"1")) {
        told.add(reader.add(std::string(1, c)));
    }
    told.add(reader.finish());
    EXPECT_TRUE(told.content.starts_with("Yes. "));
    ASSERT_EQ(told.calls.size(), 1U);
    EXPECT_EQ(told.calls[0].name, "find");
}

TEST(AnswerReader, WithoutAProtocolAllOfItIsContent) {
    AnswerReader reader(nullptr);
    EXPECT_EQ(reader.add("CALL ").content, "CALL ");
    EXPECT_EQ(reader.add("x;").content, "x;");
    EXPECT_TRUE(reader.finish().is_empty());
    EXPECT_EQ(reader.parsed().content, "CALL x;");
}

}  // namespace
}  // namespace palimpsest
