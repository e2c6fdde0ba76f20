// Tools: grammars and parsers of real templates' own forms of calls.

#include "text/tool_calls.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "core/error.h"
#include "support/golden.h"
#include "text/chat_template.h"

namespace palimpsest {
namespace {

namespace fs = std::filesystem;

nlohmann::ordered_json lakes() {
    return nlohmann::ordered_json::parse(R"([{"type": "function", "function": {
        "name": "find_lake", "description": "Finds a lake.", "parameters": {"type": "object",
        "properties": {"region": {"type": "string", "description": "Where to look"}},
        "required": ["region"]}}}])");
}

class ToolCalls : public ::testing::Test {
 protected:
    void SetUp() override {
        if (!has_jinja()) GTEST_SKIP() << "this build lacks libllama-common";
        if (!fs::exists(PALIMPSEST_TEMPLATES)) GTEST_SKIP() << "no templates";
    }
    static std::string text_of(const std::string& name) {
        return testing::read_text(fs::path(PALIMPSEST_TEMPLATES) / (name + ".jinja"));
    }
    static std::unique_ptr<const ToolProtocol> of(const std::string& name,
                                                  const ToolRequest& request) {
        return ToolProtocol::make(text_of(name), {.bos = "<s>", .eos = "</s>"}, request);
    }
};

TEST_F(ToolCalls, RealTemplatesOwnFormsAreParsed) {
    const std::map<std::string, std::string> calls = {
        {"Qwen-Qwen2.5-7B-Instruct",
         "<tool_call>\n{\"name\": \"find_lake\", \"arguments\": {\"region\": "
         "\"Alps\"}}\n</tool_call>"},
        {"Qwen-Qwen3-0.6B",
         "<tool_call>\n{\"name\": \"find_lake\", \"arguments\": {\"region\": "
         "\"Alps\"}}\n</tool_call>"},
        {"NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
         "<tool_call>\n{\"name\": \"find_lake\", \"arguments\": {\"region\": "
         "\"Alps\"}}\n</tool_call>"},
        {"meta-llama-Llama-3.1-8B-Instruct",
         "{\"name\": \"find_lake\", \"parameters\": {\"region\": \"Alps\"}}"}};
    for (const auto& [name, answer] : calls) {
        SCOPED_TRACE(name);
        const auto protocol = of(name, {.tools = lakes()});
        const ParsedAnswer said = protocol->parse(answer, false);
        ASSERT_EQ(said.calls.size(), 1U) << said.content;
        EXPECT_EQ(said.calls[0].name, "find_lake");
        EXPECT_EQ(nlohmann::json::parse(said.calls[0].arguments),
                  nlohmann::json({{"region", "Alps"}}));
        EXPECT_TRUE(said.content.empty()) << said.content;
        const ParsedAnswer plain = protocol->parse("Lake Como.", false);
        EXPECT_TRUE(plain.calls.empty());
        EXPECT_EQ(plain.content, "Lake Como.");
        // A beginning of a call is no text yet.
        const ParsedAnswer partial = protocol->parse(answer.substr(0, answer.size() / 2), true);
        EXPECT_TRUE(partial.content.empty()) << partial.content;
        // What a call of this kind begins with is what an answer may begin with, too.
        if (name == "meta-llama-Llama-3.1-8B-Instruct") continue;
        // Called only if it wants to, the grammar waits for the call to begin.
        EXPECT_FALSE(protocol->grammar().empty());
        EXPECT_FALSE(protocol->triggers().empty());
        EXPECT_TRUE(of(name, {.tools = lakes(), .choice = ToolRequest::Choice::kRequired})
                        ->triggers()
                        .empty());
        EXPECT_TRUE(
            of(name, {.tools = lakes(), .choice = ToolRequest::Choice::kNone})->grammar().empty());
    }
}

TEST_F(ToolCalls, EveryTemplateHasAProtocolOrSaysWhyNot) {
    int n_with = 0;
    for (const auto& entry : fs::directory_iterator(PALIMPSEST_TEMPLATES)) {
        const std::string name = entry.path().stem().string();
        SCOPED_TRACE(name);
        try {
            const auto protocol = of(name, {.tools = lakes()});
            n_with += protocol->grammar().empty() ? 0 : 1;
            EXPECT_TRUE(protocol->parse("Hello.", true).calls.empty());
        } catch (const Error& e) {
            // Some have no form but their own for plain answers, either.
            const bool is_said =
                e.code() == ErrorCode::kUnsupported || e.code() == ErrorCode::kCorrupt;
            EXPECT_TRUE(is_said) << e.what();
        }
    }
    EXPECT_GE(n_with, 50);
}

TEST_F(ToolCalls, ToolsThatAreNoneAreRefused) {
    const auto refused = [](const char* tools) {
        try {
            (void)of("Qwen-Qwen2.5-7B-Instruct", {.tools = nlohmann::ordered_json::parse(tools)});
            ADD_FAILURE() << tools;
        } catch (const Error& e) {
            EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument) << e.what();
        }
    };
    refused("{}");
    refused("[1]");
    refused(R"([{"type": "retrieval"}])");
    refused(R"([{"type": "function", "function": {}}])");
    refused(R"([{"type": "function", "function": {"name": ""}}])");
    refused(R"([{"type": "function", "function": {"name": 3}}])");
    refused(R"([{"type": "function", "function": {"name": "f", "parameters": [1]}}])");
}

TEST_F(ToolCalls, HostileTemplatesAreTriedApart) {
    for (const char* text : {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
                             "{% for i in range(100000000) %}{{ i }}{% endfor %}"}) {
        EXPECT_THROW((void)ToolProtocol::make(text, {}, {.tools = lakes()}), Error) << text;
    }
}

}  // namespace
}  // namespace palimpsest
