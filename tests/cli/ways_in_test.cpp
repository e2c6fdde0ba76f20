// The same text by every way into the program comes to the tokens that libllama makes of it: as an
// argument, from a file, through a pipe, in a chat, and typed at a terminal under any locale.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "engine/session.h"
#include "palimpsest/conversation.h"
#include "support/process.h"
#include "support/task_files.h"
#include "support/tiny_model.h"
#include "support/vocabularies.h"

namespace palimpsest {
namespace {

namespace fs = std::filesystem;

using testing::run_palimpsest;
using testing::Vocabulary;

std::vector<TokenId> ids_of(const testing::ProgramResult& r) {
    EXPECT_EQ(r.status, 0) << r.err;
    const auto ids = nlohmann::json::parse(r.out, nullptr, false);
    EXPECT_TRUE(ids.is_array()) << r.out;
    return ids.is_array() ? ids.get<std::vector<TokenId>>() : std::vector<TokenId>();
}

TEST(WaysIn, ArgumentFileAndPipeGiveLibllamasTokens) {
    testing::TemporaryFolder folder;
    size_t n = 0;
    for (const Vocabulary& v : testing::vocabularies()) {
        for (const std::string& text : testing::kSeamTexts) {
            SCOPED_TRACE(v.name() + ": " + text);
            const std::vector<TokenId> theirs = v.theirs(text, false, false);
            const std::string file = folder.write("text", text);
            const std::vector<std::string> tokenize = {"tokenize", "-m", v.path(), "--json"};
            const auto with = [&](const std::vector<std::string>& more) {
                std::vector<std::string> words = tokenize;
                words.insert(words.end(), more.begin(), more.end());
                return words;
            };
            EXPECT_EQ(ids_of(run_palimpsest(with({"--", text}))), theirs);
            EXPECT_EQ(ids_of(run_palimpsest(with({"-f", file}))), theirs);
            EXPECT_EQ(ids_of(run_palimpsest(tokenize, {.input = text})), theirs);
            ++n;
        }
    }
    EXPECT_GE(n, 36U);
}

/// What a saved chat has read.
std::vector<TokenId> tokens_of(const std::string& model, const std::string& form,
                               const std::string& saved) {
    const Engine engine({.model = model, .threads = 1});
    Conversation talk(engine, {.chat_template = form});
    talk.load(saved);
    const auto ids = talk.session().tokens().ids();
    return {ids.begin(), ids.end()};
}

TEST(WaysIn, AChatGivesLibllamasTokens) {
    testing::TemporaryFolder folder;
    for (const Vocabulary& v : testing::vocabularies()) {
        for (const std::string& text : testing::kSeamTexts) {
            // A line is a message.
            if (text.find_first_of("\n\r") != std::string::npos || text == " ") continue;
            SCOPED_TRACE(v.name() + ": " + text);
            const std::string saved = (fs::path(folder.path()) / "saved").string();
            const auto r = run_palimpsest(
                {"chat", "-m", v.path(), "-t", "1", "-n", "1", "--chat-template", "chatml"},
                {.input = text + "\n/save " + saved + "\n/quit\n"});
            ASSERT_EQ(r.status, 0) << r.err;
            std::vector<TokenId> read = tokens_of(v.path(), "chatml", saved);
            const std::vector<TokenId> theirs = v.chat("chatml", {text});
            read.resize(std::min(read.size(), theirs.size()));  // an answer may follow
            EXPECT_EQ(read, theirs);
        }
    }
}

// Field case B1: an interactive chat took UTF-8 in UTF-8 locales only.
TEST(WaysIn, B1_ATerminalTakesUtf8UnderAnyLocale) {
    const std::string text =
        "\xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E Gr\xC3\xBC\xC3\x9F"
        "e \xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x91\xA7 3.5";
    for (const char* locale : {"C.UTF-8", "C", "POSIX", "de_DE.UTF-8", "no such locale"}) {
        SCOPED_TRACE(locale);
        testing::TemporaryFolder folder;
        const std::string model =
            folder.write("m.gguf", testing::speaking_model_bytes({.n_layer = 1}));
        const std::string saved = (fs::path(folder.path()) / "saved").string();
        EXPECT_EQ(testing::run_at_terminal(
                      {"chat", "-m", model, "-t", "1", "-n", "1", "--temperature", "0.0"}, locale,
                      {text, "/save " + saved, "/quit"}),
                  0);
        const std::vector<TokenId> read = tokens_of(model, "", saved);
        const auto tokenizer = Tokenizer::load(model, GgufFile::open(model));
        EXPECT_NE(tokenizer->decode(read).find(text), std::string::npos) << tokenizer->decode(read);
    }
}

}  // namespace
}  // namespace palimpsest
