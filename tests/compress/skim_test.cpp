// The agent: chunks, what model and agent say to each other, and its rounds.

#include "compress/skim/skim.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "core/error.h"
#include "support/latent_files.h"
#include "support/task_files.h"
#include "support/tiny_model.h"
#include "text/text_parts.h"

namespace palimpsest {
namespace {

namespace fs = std::filesystem;

int64_t count_words(std::string_view text) { return std::ssize(split_words(text)); }

std::vector<std::string> texts_of(const std::vector<SkimChunk>& chunks) {
    std::vector<std::string> texts;
    for (const SkimChunk& c : chunks) texts.push_back(c.text);
    return texts;
}

TEST(SkimChunks, LinesStayTogetherAndNothingIsLost) {
    const std::vector<SkimDocument> documents = {
        {"a.txt", "one two\nthree four\n\nfive six seven\neight\n"}, {"b.txt", "nine"}};
    const auto chunks = cut_into_chunks(documents, ChunkRule::kLines, 4, count_words);
    EXPECT_EQ(texts_of(chunks), (std::vector<std::string>{"one two\nthree four\n\n",
                                                          "five six seven\neight\n", "nine"}));
    EXPECT_EQ(citation(documents, chunks[0]), "a.txt:1-2");
    EXPECT_EQ(citation(documents, chunks[1]), "a.txt:4-5");
    EXPECT_EQ(citation(documents, chunks[2]), "b.txt:1");
}

TEST(SkimChunks, ALongLineIsCutBehindSentencesAndALongSentenceBetweenWords) {
    const std::vector<SkimDocument> documents = {
        {"a", "One two. Three four five. " + std::string("w w w w w w w w w w w w") + " end.\n"}};
    const auto chunks = cut_into_chunks(documents, ChunkRule::kLines, 5, count_words);
    std::string all;
    for (const SkimChunk& c : chunks) {
        EXPECT_LE(count_words(c.text), 5) << c.text;
        all += c.text;
    }
    EXPECT_EQ(all, documents[0].text);
    EXPECT_EQ(chunks.front().text, "One two. Three four five. ");
}

TEST(SkimChunks, SentencesAreJoinedAsPublished) {
    const std::vector<SkimDocument> documents = {
        {"a", "One two.\nThree  four! Five six seven eight nine ten? Eleven"}};
    const auto chunks = cut_into_chunks(documents, ChunkRule::kSentences, 4, count_words);
    EXPECT_EQ(texts_of(chunks),
              (std::vector<std::string>{"One two. Three  four!", "Five six seven eight nine ten?",
                                        "Eleven"}));
    EXPECT_EQ(chunks[0].last_line, 2);
    const auto whole = cut_into_chunks(documents, ChunkRule::kSentences, 100, count_words);
    EXPECT_EQ(texts_of(whole), std::vector<std::string>{documents[0].text});
}

TEST(SkimChunks, BlankDocumentsHaveNone) {
    EXPECT_TRUE(
        cut_into_chunks({{"a", " \n\n"}, {"b", ""}}, ChunkRule::kLines, 4, count_words).empty());
    EXPECT_THROW((void)cut_into_chunks({{"a", "x"}}, ChunkRule::kLines, 0, count_words), Error);
}

TEST(SkimProtocol, TheLastDirectiveWins) {
    const auto ids = [](std::string_view text) { return parse_action(text, 12).chunks; };
    EXPECT_EQ(ids("EXPAND: 3, 7"), (std::vector<int64_t>{3, 7}));
    EXPECT_EQ(ids("expand :7,3,3 , 99, 0"), (std::vector<int64_t>{3, 7}));
    EXPECT_EQ(ids("ANSWER: no\nEXPAND: 2"), (std::vector<int64_t>{2}));
    EXPECT_EQ(ids("EXPAND: 99999999999999999999"), std::vector<int64_t>{});
    const SkimAction answer = parse_action("EXPAND: 2\nAnswer : 42 \n", 12);
    EXPECT_TRUE(answer.is_answer && answer.is_directive);
    EXPECT_EQ(answer.answer, "42");
    const SkimAction other = parse_action(" It is 42. ", 12);
    EXPECT_TRUE(other.is_answer);
    EXPECT_FALSE(other.is_directive);
    EXPECT_EQ(other.answer, "It is 42.");
}

TEST(SkimProtocol, AnEarlyAnswerAsksForWhatItNames) {
    EXPECT_EQ(chunks_named_in("ANSWER: 7 and 3, not 2024 or 99", 12), (std::vector<int64_t>{3, 7}));
    EXPECT_EQ(chunks_named_in("1 2 3 4 5 6 7", 12), (std::vector<int64_t>{1, 2, 3, 4, 5}));
    EXPECT_EQ(chunks_named_in("none", 12), (std::vector<int64_t>{1}));
}

TEST(SkimWords, RareWordsFindTheirChunk) {
    const auto chunks =
        cut_into_chunks({{"a", "the cat sat\nthe dog ran\nthe zebra and the cat\n"}},
                        ChunkRule::kLines, 5, count_words);
    EXPECT_EQ(chunks_by_words(chunks, "Where is the Zebra?", 1), (std::vector<int64_t>{3}));
    EXPECT_EQ(chunks_by_words(chunks, "the cat", 9).size(), chunks.size());
}

TEST(SkimProtocol, TheGrammarCountsTheChunks) {
    EXPECT_EQ(action_grammar(0, true), "root ::= answer\nanswer ::= \"ANSWER: \" [^\\n]+\n");
    const auto has = [](int64_t n, const std::string& id) {
        return action_grammar(n, false).find("\nid ::= " + id + "\n") != std::string::npos;
    };
    EXPECT_TRUE(has(7, "[1-7]"));
    EXPECT_TRUE(has(10, "[1-9] | \"1\" [0-0]"));
    EXPECT_TRUE(has(237,
                    "[1-9] | [1-9] [0-9] | [1-1] [0-9] [0-9] | \"2\" [0-2] [0-9] | \"23\" "
                    "[0-7]"));
}

class SkimTest : public ::testing::Test {
 protected:
    SkimTest() {
        folder_.write("m.gguf", testing::speaking_model_bytes({.n_layer = 1, .n_ctx = 8192}));
        folder_.write("adapter.gguf", testing::tiny_adapter().bytes());
        for (int i = 0; i < 40; ++i) text_ += cat("Rule ", i, ": pay ", i * i % 97, ".\n");
    }
    [[nodiscard]] std::string at(const std::string& name) const {
        return (fs::path(folder_.path()) / name).string();
    }
    SkimResult skim(SkimOptions options, const Skimmer::OnProgress& on_progress = {}) {
        const Engine engine({.model = at("m.gguf"), .threads = 1});
        const LatentContext latent(engine,
                                   {.adapter = at("adapter.gguf"), .encoder = at("m.gguf")});
        options.chunk_tokens = 64;
        options.answer.max_tokens = 12;
        Skimmer skimmer(engine, latent, {{"rules.txt", text_}}, options);
        chunks_ = skimmer.chunks();
        return skimmer.ask("What is rule 7?", on_progress);
    }

    testing::TemporaryFolder folder_;
    std::string text_;
    std::vector<SkimChunk> chunks_;
};

TEST_F(SkimTest, BothFormsExpandBeforeTheyAnswer) {
    for (const SkimForm form : {SkimForm::kChat, SkimForm::kRounds}) {
        for (const SkimChooser chooser : {SkimChooser::kModel, SkimChooser::kWords}) {
            const SkimResult r = skim({.form = form, .chooser = chooser});
            EXPECT_GT(chunks_.size(), 5U);
            EXPECT_FALSE(r.expanded.empty());
            EXPECT_GE(r.rounds.size(), 2U);
            EXPECT_LE(r.rounds.size(), 6U);
            EXPECT_TRUE(r.is_directive) << r.rounds.back().written;
            EXPECT_GT(r.n_latents, 0);
            EXPECT_LT(r.n_latents, r.n_source / 3);
            EXPECT_GT(r.saved, 0);
            EXPECT_GT(r.bytes_held, 0U);
            int64_t n_read = 0;
            for (const SkimRound& round : r.rounds) n_read += round.positions_read;
            EXPECT_EQ(r.positions_read, n_read);
        }
    }
}

TEST_F(SkimTest, RoundsReadTheDocumentOnce) {
    const SkimResult r = skim({.form = SkimForm::kRounds});
    ASSERT_GE(r.rounds.size(), 2U);
    ASSERT_FALSE(r.expanded.empty());
    // A byte is a token to this model, mostly: what is shown is no shorter than its tokens.
    int64_t n_shown = 0;
    for (const int64_t id : r.expanded)
        n_shown += std::ssize(chunks_[static_cast<size_t>(id) - 1].text);
    for (size_t i = 1; i < r.rounds.size(); ++i) {
        EXPECT_GT(r.rounds[i].positions_read, 0);
        EXPECT_LT(r.rounds[i].positions_read, r.rounds[0].positions_read - r.n_latents + n_shown);
    }
}

TEST_F(SkimTest, UnconstrainedNonsenseIsForcedToLookAndThenTaken) {
    const SkimResult r = skim({.is_constrained = false});
    EXPECT_TRUE(r.rounds[0].is_forced);
    EXPECT_FALSE(r.expanded.empty());
    EXPECT_FALSE(r.is_directive);
}

TEST_F(SkimTest, WorksWithinABudgetAndWithOneRound) {
    SkimOptions o;
    o.conversation.memory = {.budget = "1024", .policy = "leverage"};
    o.n_rounds = 1;
    for (const SkimForm form : {SkimForm::kChat, SkimForm::kRounds}) {
        o.form = form;
        const SkimResult r = skim(o);
        EXPECT_LE(r.rounds.size(), 2U);
    }
}

TEST_F(SkimTest, CanBeCancelledAtAnyMoment) {
    for (const SkimForm form : {SkimForm::kChat, SkimForm::kRounds}) {
        for (int k = 1; k < 12; k += 3) {
            int n = 0;
            const SkimResult r = skim({.form = form}, [&](const auto&) { return ++n < k; });
            EXPECT_TRUE(r.is_cancelled) << k;
            EXPECT_TRUE(r.answer.empty());
        }
    }
}

TEST_F(SkimTest, ChunksAreExpandedAndCitedByTheirNumbers) {
    const Engine engine({.model = at("m.gguf"), .threads = 1});
    const LatentContext latent(engine, {.adapter = at("adapter.gguf"), .encoder = at("m.gguf")});
    SkimOptions options;
    options.chunk_tokens = 64;
    const Skimmer skimmer(engine, latent, {{"rules.txt", text_}, {"more.txt", "One line.\n"}},
                          options);
    const auto n = static_cast<int64_t>(skimmer.chunks().size());
    EXPECT_EQ(skimmer.expand(1).find("Rule 0"), 0U);
    EXPECT_EQ(skimmer.citation(1), cat("rules.txt:1-", skimmer.chunks().front().last_line));
    EXPECT_EQ(skimmer.citation(n), "more.txt:1");
    for (const int64_t none : {int64_t{0}, int64_t{-1}, n + 1}) {
        EXPECT_THROW((void)skimmer.expand(none), Error);
        EXPECT_THROW((void)skimmer.citation(none), Error);
    }
}

TEST_F(SkimTest, NothingToSkimAndNoQuestionAreRefused) {
    text_ = "\n \n";
    EXPECT_THROW((void)skim({}), Error);
}

}  // namespace
}  // namespace palimpsest
