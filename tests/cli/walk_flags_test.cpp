// Every flag of every command, as the program itself lists them, with values that nobody means:
// each ends with a status that help promises, no input is changed and no temporary stays.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "bench/quality/quality_result.h"
#include "cli/command.h"
#include "core/error.h"
#include "support/golden.h"
#include "support/process.h"
#include "support/task_files.h"
#include "support/walk_files.h"

namespace palimpsest {
namespace {

namespace fs = std::filesystem;

using testing::ProgramResult;
using Words = std::vector<std::string>;

/// What goes right and is done at once; the flag that is tried takes the place of its like.
const std::map<std::string, Words>& quick_uses() {
    static const std::map<std::string, Words> uses = {
        {"run", {"--model=m.gguf", "--threads=1", "--max-tokens=1", "hi"}},
        {"chat", {"--model=m.gguf", "--threads=1", "--max-tokens=1"}},
        {"serve", {"--model=m.gguf", "--threads=1", "--port=0", "--check"}},
        {"inspect", {"--model=m.gguf"}},
        {"tokenize", {"--model=m.gguf", "hi"}},
        {"trace", {"--model=m.gguf", "--threads=1", "--tokens=tokens.json", "--out=out"}},
        {"skim",
         {"--model=long.gguf", "--threads=1", "--latent=adapter.gguf", "--encoder=m.gguf",
          "--file=rules.txt", "--max-tokens=2", "--rounds=1", "hi"}},
        {"convert lclm", {"--out=out", "checkpoint"}},
        {"convert additions", {"--model=m.gguf", "--out=out", "additions.gguf"}},
        {"train-data", {"--documents=2", "--characters=1000", "--output=out"}},
        {"completion", {}},
        {"bench speed",
         {"--model=m.gguf", "--threads=1", "--depths=0", "--prefill=4", "--decode=1", "--repeats=1",
          "--no-footprint"}},
        {"bench quality",
         {"--model=m.gguf", "--threads=1", "--jobs=1", "--tasks=niah_single_2",
          "--ruler-samples=ruler", "--samples=1", "--lengths=300", "--no-template", "--out=out"}},
        {"bench prefix",
         {"--model=m.gguf", "--threads=1", "--length=64", "--traces=4", "--tests=1",
          "--methods=none", "--out=out"}},
        {"bench linear",
         {"--task=recall", "--arms=single", "--rates=0.01", "--seeds=1", "--length=16", "--pairs=2",
          "--vocabulary=8", "--layers=1", "--width=8", "--heads=1", "--key-size=4",
          "--value-size=4", "--feed-forward=8", "--steps=1", "--batch=1", "--examined=1",
          "--threads=1", "--out=out"}},
        {"bench report", {"--markdown=out", "results.jsonl"}},
        {"prefix build",
         {"--model=m.gguf", "--threads=1", "--file=rules.txt", "--traces=traces.jsonl",
          "--entries-per-head=4", "--held-out=1", "--kept=0", "--out=out.prefix.gguf"}},
        {"prefix info", {"a.prefix.gguf"}},
        {"prefix verify", {"--model=m.gguf", "--threads=1", "a.prefix.gguf"}},
        {"prefix compose", {"--out=out.prefix.gguf", "a.prefix.gguf"}},
        {"train gate", {}},
        {"train indexer", {}},
        {"train latent", {}},
        {"train linear",
         {"--task=recall", "--length=16", "--pairs=2", "--vocabulary=8", "--layers=1", "--width=8",
          "--heads=1", "--key-size=4", "--value-size=4", "--feed-forward=8", "--steps=1",
          "--batch=1", "--examined=1", "--threads=1", "--out=out"}},
        {"train latent-context",
         {"--model=m.gguf", "--threads=1", "--documents=texts.jsonl", "--out=out",
          "--stages=pack:1", "--batch=1", "--source=8", "--target=4", "--encoder-layers=1",
          "--examined=1"}}};
    return uses;
}

const Words kQuickTraining = {"--model=m.gguf", "--threads=1", "--documents=doc.txt", "--steps=1",
                              "--length=32",    "--pool=1",    "--held-out=0",        "--batch=1",
                              "--mid=4",        "--recent=4",  "--out=out.gguf"};

Words quick_use(const std::string& command) {
    const auto found = quick_uses().find(command);
    if (found == quick_uses().end()) return {};
    const bool is_alike = command.starts_with("train ") && found->second.empty();
    return is_alike ? kQuickTraining : found->second;
}

/// A file that the command reads, so that no flag may make it write there; empty: it reads none.
std::string input_of(const std::string& command) {
    for (const std::string& word : quick_use(command)) {
        if (word == "--model=m.gguf") return "m.gguf";
        if (word == "results.jsonl" || word == "a.prefix.gguf") return word;
    }
    return "";
}

Words hostile_values(const std::string& command) {
    Words values = {"",
                    "0",
                    "-1",
                    "nan",
                    "1e999",
                    "99999999999999999999",
                    "\xff\xfe",
                    ".",
                    "/dev/full",
                    "no/such",
                    std::string(5000, 'x')};
    if (const std::string own = input_of(command); !own.empty()) values.push_back(own);
    return values;
}

/// A command and the words that lead to it.
struct Leaf {
    std::string name;
    const CLI::App* app;
};

void add_leaves(const CLI::App& app, const std::string& name, std::vector<Leaf>& to) {
    const auto below = app.get_subcommands([](const CLI::App*) { return true; });
    if (below.empty()) to.push_back({name, &app});
    for (const CLI::App* sub : below) {
        add_leaves(*sub, name + (name.empty() ? "" : " ") + sub->get_name(), to);
    }
}

std::vector<std::string> command_names() {
    CLI::App program;
    add_commands(program);
    std::vector<Leaf> leaves;
    add_leaves(program, "", leaves);
    std::vector<std::string> names;
    for (const Leaf& leaf : leaves) names.push_back(leaf.name);
    return names;
}

class EveryFlag : public ::testing::TestWithParam<std::string> {
 protected:
    static void SetUpTestSuite() {
        made_prefix() = std::make_unique<testing::TemporaryFolder>();
        fill(*made_prefix());
        const ProgramResult r =
            run(*made_prefix(), {"prefix", "build", "--model=m.gguf", "-f", "rules.txt", "--traces",
                                 "traces.jsonl", "-k", "4", "-o", "a.prefix.gguf"});
        ASSERT_EQ(r.status, 0) << r.err;
    }
    static void TearDownTestSuite() { made_prefix().reset(); }

    EveryFlag() {
        fill(folder_);
        fs::copy(fs::path(made_prefix()->path()) / "a.prefix.gguf", folder_.path());
        for (const char* name : kInputs) {
            before_[name] = testing::read_text(fs::path(folder_.path()) / name);
        }
    }

    /// Every option with every value; what has none by itself.
    void walk(const CLI::App& command) {
        for (const CLI::Option* option : command.get_options()) {
            if (option->get_name() == "--help") continue;
            if (option->get_items_expected_max() == 0) {
                try_words({option->get_name()}, option->get_name());
                continue;
            }
            for (const std::string& value : hostile_values(GetParam())) try_value(*option, value);
        }
    }

 private:
    static constexpr const char* kInputs[] = {"m.gguf",       "doc.txt",     "rules.txt",
                                              "traces.jsonl", "tokens.json", "results.jsonl",
                                              "a.prefix.gguf"};

    static std::unique_ptr<testing::TemporaryFolder>& made_prefix() {
        static std::unique_ptr<testing::TemporaryFolder> folder;
        return folder;
    }

    static void fill(testing::TemporaryFolder& folder) {
        testing::fill_for_walk(folder);
        folder.write("ruler/300/niah_single_2.jsonl",
                     R"({"input": "The number for tea is: 4711.\nWhat is it?", )"
                     R"("outputs": ["4711"], "answer_prefix": " It is"})"
                     "\n");
    }

    static ProgramResult run(const testing::TemporaryFolder& folder, const Words& words) {
        return testing::run_palimpsest(
            words, {.input = "hi\n/quit\n",
                    .timeout_s = 20,
                    .folder = folder.path(),
                    // The second: the program need not start itself once more.
                    .environment = {"PALIMPSEST_MODEL=m.gguf", "GOMP_SPINCOUNT=2000"}});
    }

    void try_value(const CLI::Option& option, const std::string& value) {
        const std::string shown = value.size() > 100 ? "xxx..." : value;
        const std::string name = option.get_name();
        if (name.starts_with("--")) return try_words({name + "=" + value}, name + "=" + shown);
        try_words({"--", value}, name + ": " + shown);
    }

    void try_words(const Words& tried, const std::string& what) {
        Words words;
        std::istringstream names(GetParam());
        for (std::string word; names >> word;) words.push_back(word);
        const std::string own = tried[0].substr(0, tried[0].find('='));
        for (const std::string& word : quick_use(GetParam())) {
            const bool is_own = word == own || word.starts_with(own + "=");
            const bool is_positional = !word.starts_with("--");
            if (!is_own && !(is_positional && own == "--")) words.push_back(word);
        }
        words.insert(words.end(), tried.begin(), tried.end());
        const ProgramResult r = run(folder_, words);
        static const std::set<int> kGood = {0, 2, 3, 4, 5, 6, 74};
        EXPECT_TRUE(kGood.contains(r.status))
            << GetParam() << ' ' << what << " ends with " << r.status << ": " << r.err;
        EXPECT_TRUE(r.status == 0 || r.err.find("palimpsest: ") != r.err.npos) << what << r.err;
        for (const auto& [name, text] : before_) {
            const fs::path path = fs::path(folder_.path()) / name;
            ASSERT_TRUE(testing::read_text(path) == text) << what << " changed " << name;
        }
        for (const auto& entry : fs::directory_iterator(folder_.path())) {
            const std::string name = entry.path().filename().string();
            EXPECT_EQ(name.find(".partial"), name.npos) << what << " left " << name;
        }
    }

    testing::TemporaryFolder folder_;
    std::map<std::string, std::string> before_;
};

TEST_P(EveryFlag, EndsAsHelpPromises) {
    CLI::App program;
    add_commands(program);
    std::vector<Leaf> leaves;
    add_leaves(program, "", leaves);
    const auto leaf = std::ranges::find(leaves, GetParam(), &Leaf::name);
    ASSERT_NE(leaf, leaves.end());
    ASSERT_TRUE(GetParam().starts_with("train ") || quick_uses().contains(GetParam()))
        << "a new command needs a quick use here";
    walk(*leaf->app);
}

INSTANTIATE_TEST_SUITE_P(Commands, EveryFlag, ::testing::ValuesIn(command_names()),
                         [](const auto& test) {
                             std::string name = test.param;
                             std::ranges::replace(name, ' ', '_');
                             std::ranges::replace(name, '-', '_');
                             return name;
                         });

}  // namespace
}  // namespace palimpsest
