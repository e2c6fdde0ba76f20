// Chat templates as their authors wrote them: beside Python's jinja2
// (scripts/template_references.py made what is expected), and hostile ones.

#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>

#include "core/error.h"
#include "support/golden.h"

namespace palimpsest {
namespace {

namespace fs = std::filesystem;

std::string rendered(const ChatTemplate& t, const TemplateInput& input) {
    std::string text;
    for (const RenderedPiece& p : t.render(input)) text += p.text;
    return text;
}

class Jinja : public ::testing::Test {
 protected:
    void SetUp() override {
        if (!has_jinja()) GTEST_SKIP() << "this build has no Jinja";
    }
    static std::unique_ptr<const ChatTemplate> of(const std::string& text) {
        return ChatTemplate::of_text(text, {.bos = "<s>", .eos = "</s>"});
    }
    static std::string refusal(const std::string& text) {
        try {
            const std::vector<ChatMessage> chat = {{"user", {{"x"}}}};
            (void)of(text)->render({.messages = chat});
        } catch (const Error& e) {
            EXPECT_EQ(e.code(), ErrorCode::kUnsupported) << e.what();
            return e.what();
        }
        return "";
    }
};

// ---- references ---------------------------------------------------------------------------------

/// The conversation of scripts/template_references.py.
const std::vector<ChatMessage> kMessages = {{"system", {{"Be brief."}}},
                                            {"user", {{"Name three rivers."}}},
                                            {"assistant", {{"Rhine, Nile, Amur."}}},
                                            {"user", {{" And a lake, <b>please</b>? "}}}};
constexpr std::time_t kNow = 1767355200;  // noon of 2026-01-02, UTC

nlohmann::ordered_json tools() {
    return nlohmann::ordered_json::parse(R"([{"type": "function", "function": {
        "name": "find_lake", "description": "Finds a lake.", "parameters": {"type": "object",
        "properties": {"region": {"type": "string", "description": "Where to look"}},
        "required": ["region"]}}}])");
}

/// Templates that are not rendered as by jinja2, and why.
const std::map<std::string, std::string> kOther = {
    {"meetkai-functionary-medium-v3.1/tools", "jinja2 escapes quotes there as HTML does"}};

TEST_F(Jinja, RendersTemplatesAsTheirAuthorsToolsDo) {
    const fs::path folder = PALIMPSEST_TEMPLATES;
    if (!fs::exists(folder)) GTEST_SKIP() << "no templates in " << folder;
    const nlohmann::json wanted =
        testing::read_json(testing::source_folder() / "tests/text/template_references.json");
    int n_same = 0;
    for (const auto& [name, both] : wanted.items()) {
        SCOPED_TRACE(name);
        const std::string text = testing::read_text(folder / (name + ".jinja"));
        for (const auto& [kind, want] : both.items()) {
            if (kOther.contains(name + "/" + kind)) continue;
            SCOPED_TRACE(kind);
            std::string got;
            try {
                got = rendered(*of(text), {.messages = kMessages,
                                           .tools = kind == "tools" ? tools() : nullptr,
                                           .now = kNow});
            } catch (const Error& e) {
                EXPECT_TRUE(want.is_object()) << e.what();
                continue;
            }
            if (want.is_object()) continue;  // ours takes more
            EXPECT_EQ(got, want.get<std::string>());
            n_same += got == want.get<std::string>() ? 1 : 0;
        }
    }
    std::cout << n_same << " renderings are the same\n";
    EXPECT_GE(n_same, 120);
}

// ---- our side -----------------------------------------------------------------------------------

TEST_F(Jinja, MarksWhatMessagesSay) {
    const auto t = of("{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}{% endfor %}");
    const std::vector<ChatMessage> chat = {{"user", {{"  hi "}}}};
    const auto pieces = t->render({.messages = chat});
    ASSERT_EQ(pieces.size(), 2U);
    EXPECT_EQ(pieces[0].text, "[user] ");
    EXPECT_FALSE(pieces[0].is_message);
    EXPECT_EQ(pieces[1].text, "hi");
    EXPECT_TRUE(pieces[1].is_message);
}

TEST_F(Jinja, ChoicesAreNamesFilesOrTexts) {
    const std::string text = "{% for m in messages %}{{ m.content }}{% endfor %}.";
    const testing::TemporaryFile file(text, ".jinja");
    const std::vector<ChatMessage> chat = {{"user", {{"hi"}}}};
    const auto said = [&](const std::string& choice) {
        return rendered(*ChatTemplate::from_choice(choice, {}), {.messages = chat});
    };
    EXPECT_EQ(said(text), "hi.");
    EXPECT_EQ(said(file.path()), "hi.");
    EXPECT_NE(said("chatml").find("<|im_start|>user\nhi"), std::string::npos);
    EXPECT_THROW((void)said("esperanto"), Error);
    EXPECT_THROW((void)said("./none.jinja"), Error);
}

TEST_F(Jinja, HostileTemplatesAreRefusedWithAReason) {
    EXPECT_NE(refusal("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}").find("trial"),
              std::string::npos);
    EXPECT_NE(refusal("{{ " + std::string(20000, '(') + "1" + std::string(20000, ')') + " }}"), "");
    EXPECT_NE(refusal("{% for i in range(10**9) %}{% for j in range(10**9) %}x{% endfor %}"
                      "{% endfor %}"),
              "");
    EXPECT_NE(refusal("{% for m in messages %}"), "");
    EXPECT_NE(refusal(std::string(size_t{300} * 1024, 'x')).find("the limit is"),
              std::string::npos);
    EXPECT_NE(refusal("{{ raise_exception('never') }}").find("never"), std::string::npos);
}

TEST(Schema, BecomesAGrammar) {
    if (!has_jinja()) GTEST_SKIP() << "this build lacks libllama-common";
    const std::string grammar =
        grammar_of_schema(R"({"type": "object", "properties": {"a": {"type": "integer"}}})");
    EXPECT_NE(grammar.find("root"), std::string::npos);
    EXPECT_THROW((void)grammar_of_schema("{"), Error);
    EXPECT_THROW((void)grammar_of_schema(R"({"type": "nonsense"})"), Error);
}

}  // namespace
}  // namespace palimpsest
