// Grammars that libllama would hang, take all memory or end the process for; found by fuzzing.

#include "engine/grammar.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace palimpsest {
namespace {

struct BadGrammar {
    const char* name;
    std::string text;
    const char* says;
};

std::string repeated(const std::string& part, int n) {
    std::string all;
    for (int i = 0; i < n; ++i) all += part;
    return all;
}

/// Rules r0 to rN, each with two ways to the next.
std::string many_ways(int n) {
    std::string text = "root ::= r0\n";
    for (int i = 0; i < n; ++i) text += cat("r", i, " ::= r", i + 1, " | r", i + 1, "\n");
    return text + cat("r", n, " ::= \"a\"\n");
}

class BadGrammars : public ::testing::TestWithParam<BadGrammar> {};

TEST_P(BadGrammars, AreRefusedWithASentence) {
    try {
        check_grammar(GetParam().text);
        FAIL() << "it was taken";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
        EXPECT_NE(std::string(e.what()).find(GetParam().says), std::string::npos) << e.what();
    }
}

INSTANTIATE_TEST_SUITE_P(
    All, BadGrammars,
    ::testing::Values(
        BadGrammar{"repeats_backwards", "root ::= \"a\"{4,3}", "4 to 3"},
        BadGrammar{"never_a_character", "root ::= a root\na ::= b\nb ::= \"\"\n", "never comes"},
        BadGrammar{"hidden_left_recursion", "root ::= a root \"x\" | \"y\"\na ::= b\nb ::= \"\"\n",
                   "begins with itself"},
        BadGrammar{"many_ways", many_ways(30), "ways"},
        BadGrammar{"repeats_of_repeats", "root ::= \"a\"{999}{999}{999}{999}", "too much"},
        BadGrammar{"ways_on", "root ::= .(((\"a\"?)*)+){263}", "may go on in more than"},
        BadGrammar{"loops", "root ::= [ab]++++++", "repeats repetitions"},
        BadGrammar{"deep", "root ::= " + repeated("(", 20000), "nests more"},
        BadGrammar{"no_root", "other ::= \"a\"", "no rule called 'root'"},
        BadGrammar{"undefined", "root ::= other", "no rule called 'other'"},
        BadGrammar{"too_long", "root ::= \"" + std::string(70000, 'a') + "\"", "bytes"},
        BadGrammar{"not_text", "root ::= \"\xff\"", "UTF-8"},
        BadGrammar{"not_closed", "root ::= \"a", "not closed"}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(Grammar, WhatPeopleUseIsTaken) {
    EXPECT_NO_THROW(check_grammar("root ::= [1-9] [0-9] \", \" [a-c]+"));
    EXPECT_NO_THROW(check_grammar("root ::= (\"yes\" | \"no\") # a choice\n"));
    EXPECT_NO_THROW(check_grammar("root ::= expr\nexpr ::= [0-9]+ ([-+*/] expr)*\n"));
    EXPECT_NO_THROW(check_grammar("root ::= (line \"\\n\")+\nline ::= ([a-z]+ \" \"*)*\n"));
    EXPECT_NO_THROW(check_grammar(R"(
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? "}" ws
array  ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws     ::= | " " | "\n" [ \t]{0,20}
)"));
}

}  // namespace
}  // namespace palimpsest
