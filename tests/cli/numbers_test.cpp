// Absurd numbers in every numeric flag: refused with a sentence, or within the flag's meaning.

#include <gtest/gtest.h>

#include <tuple>

#include "support/gguf_builder.h"
#include "support/golden.h"
#include "support/process.h"

namespace palimpsest {
namespace {

using testing::ProgramResult;
using testing::run_palimpsest;
using testing::TemporaryFile;

struct NumericFlag {
    const char* command;
    const char* name;
    std::vector<std::string> allowed;  // of the absurd values, those that mean something
};

constexpr const char* kAbsurd[] = {"0", "-1", "1e99", "abc", "", "nan", "99999999999999999999"};

class AbsurdNumber : public ::testing::TestWithParam<std::tuple<NumericFlag, const char*>> {};

TEST_P(AbsurdNumber, EndsWithASentence) {
    const auto& [flag, value] = GetParam();
    const bool is_allowed = std::ranges::find(flag.allowed, value) != flag.allowed.end();
    if (is_allowed && flag.command == std::string("bench")) GTEST_SKIP() << "it would measure";
    testing::GgufBuilder f = testing::tiny_llama(testing::kTinyBpeTokens);
    testing::add_bpe_vocabulary(f);
    const TemporaryFile model(f.bytes(), ".gguf");
    const TemporaryFile tokens("[1,2,3]");
    std::vector<std::string> arguments = {flag.command};
    if (arguments[0] == "bench") {
        arguments.insert(arguments.end(), {"speed", "--decode=1", "--prefill=4", "--repeats=1"});
        arguments.insert(arguments.end(), {"--depths=0", "--threads=1"});
        const std::string own = std::string(flag.name) + "=";
        std::erase_if(arguments, [&](const std::string& a) { return a.starts_with(own); });
    }
    arguments.insert(arguments.end(), {"-m", model.path(), std::string(flag.name) + "=" + value});
    if (arguments[0] == "run") arguments.insert(arguments.end(), {"-q", "hi"});
    if (arguments[0] == "trace") arguments.insert(arguments.end(), {"--tokens", tokens.path()});
    const ProgramResult r = run_palimpsest(arguments, {.timeout_s = 20});
    if (is_allowed) {
        EXPECT_EQ(r.status, 0) << r.err;
        return;
    }
    EXPECT_EQ(r.status, 2) << r.out << r.err;
    EXPECT_TRUE(r.err.starts_with("palimpsest: ")) << r.err;
}

const NumericFlag kFlags[] = {
    {"run", "--threads", {}},
    {"run", "--context", {}},
    {"run", "--chunk", {}},
    {"run", "--max-tokens", {}},
    {"run", "--temperature", {"0"}},
    {"run", "--top-k", {"0"}},
    {"run", "--top-p", {}},
    {"run", "--min-p", {"0"}},
    {"run", "--repeat-penalty", {}},
    {"run", "--frequency-penalty", {"0", "-1"}},
    {"run", "--presence-penalty", {"0", "-1"}},
    {"run", "--penalty-last-n", {"0"}},
    {"run", "--seed", {"0"}},
    {"trace", "--context", {}},
    {"trace", "--chunk", {}},
    {"bench", "--threads", {}},
    {"bench", "--depths", {"0"}},
    {"bench", "--prefill", {}},
    {"bench", "--decode", {}},
    {"bench", "--repeats", {}},
};

std::string readable(std::string text) {
    std::ranges::replace_if(
        text, [](unsigned char c) { return std::isalnum(c) == 0; }, '_');
    return text;
}

INSTANTIATE_TEST_SUITE_P(Flags, AbsurdNumber,
                         ::testing::Combine(::testing::ValuesIn(kFlags),
                                            ::testing::ValuesIn(kAbsurd)),
                         [](const auto& test) {
                             const NumericFlag& flag = std::get<0>(test.param);
                             const std::string value = std::get<1>(test.param);
                             return std::string(flag.command) + readable(flag.name) + "_is_" +
                                    (value.empty() ? "empty" : readable(value));
                         });

}  // namespace
}  // namespace palimpsest
