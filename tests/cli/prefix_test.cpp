// palimpsest prefix: what is refused, in words and by exit status.

#include <gtest/gtest.h>

#include "support/golden.h"
#include "support/process.h"

namespace palimpsest {
namespace {

using testing::ProgramResult;
using testing::run_palimpsest;
using testing::TemporaryFile;

void expect_refused(const ProgramResult& r, int status, const std::string& says) {
    EXPECT_EQ(r.status, status) << r.err;
    EXPECT_NE(r.err.find(says), std::string::npos) << r.err;
}

TEST(PrefixCommand, RefusesFilesThatAreNoMemories) {
    expect_refused(run_palimpsest({"prefix", "info", "/no/such.prefix.gguf"}), 3, "no/such");
    const TemporaryFile garbage("not a GGUF file at all", ".prefix.gguf");
    expect_refused(run_palimpsest({"prefix", "info", garbage.path()}), 4, "GGUF");
}

TEST(PrefixCommand, SaysWhatIsMissing) {
    expect_refused(run_palimpsest({"prefix"}), 2, "subcommand");
    expect_refused(run_palimpsest({"prefix", "build", "-o", "x.prefix.gguf"}), 2, "--file");
    const TemporaryFile text("A rule.");
    expect_refused(run_palimpsest({"prefix", "build", "-f", text.path(), "-o", "x.prefix"}), 2,
                   "GGUF");
    expect_refused(run_palimpsest({"prefix", "build", "-f", text.path(), "-o", "x.prefix.gguf",
                                   "-b", "25%", "--self-study", "3"}),
                   2, "--budget");
}

TEST(PrefixCommand, HelpNamesItsParts) {
    const ProgramResult r = run_palimpsest({"prefix", "--help"});
    EXPECT_EQ(r.status, 0);
    for (const char* part : {"build", "info", "verify", "compose"}) {
        EXPECT_NE(r.out.find(part), std::string::npos) << part;
    }
}

}  // namespace
}  // namespace palimpsest
