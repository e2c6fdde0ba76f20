// Documents that are read once and asked many times.

#include "palimpsest/document_memory.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "engine/session.h"
#include "support/golden.h"
#include "support/tiny_build.h"
#include "support/tiny_model.h"

namespace palimpsest {
namespace {

using testing::code_of;

std::string document(int n) {
    std::string text;
    for (int i = 0; i < n; ++i) text += cat("Rule ", i, ": pay at door ", i * 7, ". ");
    return text;
}

class DocumentMemories : public ::testing::TestWithParam<const char*> {
 protected:
    DocumentMemories()
        : file(testing::speaking_model_bytes({.n_ctx = 600}), ".gguf"),
          engine({.model = file.path(), .threads = 1, .chunk = 64}) {}

    [[nodiscard]] static ConversationOptions held() {
        const std::string policy = GetParam();
        if (policy == "full") return {};
        return {.memory = {.budget = "96", .policy = policy, .n_recent = 8, .interval = 16}};
    }
    [[nodiscard]] DocumentMemory memory(const std::string& question = "") const {
        DocumentMemory m(engine, {{document(12)}, {"And nothing else."}},
                         {.conversation = held(), .question = question});
        m.read();
        return m;
    }
    static std::string said(DocumentMemory& m, const std::string& question) {
        return m.ask(question, {.max_tokens = 12}).run().text;
    }

    testing::TemporaryFile file;
    Engine engine;
};

TEST_P(DocumentMemories, EachQuestionFindsWhatReadingLeft) {
    DocumentMemory m = memory();
    const int64_t n_read = m.n_read();
    const std::string one = said(m, "What does it cost?");
    const std::string other = said(m, "Where is door seven, then?");
    EXPECT_NE(one, other);
    EXPECT_EQ(said(m, "What does it cost?"), one);
    DocumentMemory fresh = memory();
    EXPECT_EQ(said(fresh, "Where is door seven, then?"), other);
    // As a conversation that reads document and question at once, where nothing goes.
    if (std::string(GetParam()) != "full") return;
    Conversation talk(engine, held());
    const std::vector<TextPart> turn = {
        {document(12) + "\n\n", true}, {"And nothing else.\n\n", true}, {"What does it cost?"}};
    EXPECT_EQ(talk.ask(turn, {.max_tokens = 12}).run().text, one);
    EXPECT_GT(talk.position(), n_read);
}

TEST_P(DocumentMemories, CopiesAndFilesAnswerTheSame) {
    DocumentMemory m = memory("What does it cost?");
    const std::string one = said(m, "What does it cost?");
    DocumentMemory copy = m.fork();
    EXPECT_EQ(copy.n_read(), m.n_read());
    EXPECT_EQ(said(copy, "What does it cost?"), one);
    const testing::TemporaryFile saved("");
    m.save(saved.path());
    DocumentMemory later = DocumentMemory::load(engine, saved.path(), held());
    EXPECT_TRUE(later.is_read());
    EXPECT_EQ(said(later, "What does it cost?"), one);
    EXPECT_EQ(said(m, "What does it cost?"), one);
}

TEST_P(DocumentMemories, SayWhatTheyHold) {
    DocumentMemory m = memory();
    const MemoryReport r = m.conversation().report();
    EXPECT_EQ(r.positions_seen, m.n_read());
    int64_t n = 0;
    for (int64_t layer = 0; layer < std::ssize(r.layers); ++layer) {
        const auto& held = r.layers[static_cast<size_t>(layer)].held;
        for (int64_t head = 0; head < std::ssize(held); ++head) {
            const std::vector<int32_t> at = m.conversation().held_positions(layer, head);
            EXPECT_EQ(std::ssize(at), held[static_cast<size_t>(head)]);
            EXPECT_TRUE(std::ranges::is_sorted(at));
            EXPECT_LT(at.back(), r.positions_seen);
            ++n;
        }
    }
    EXPECT_GT(n, 0);
    EXPECT_EQ(code_of([&] { (void)m.conversation().held_positions(0, 99); }),
              ErrorCode::kInvalidArgument);
    EXPECT_EQ(code_of([&] { (void)m.conversation().held_positions(-1, 0); }),
              ErrorCode::kInvalidArgument);
}

TEST_P(DocumentMemories, AreReadStepByStep) {
    DocumentMemory m(engine, {{document(12)}}, {.conversation = held()});
    EXPECT_FALSE(m.is_read());
    EXPECT_EQ(m.progress().activity, Generation::Activity::kReading);
    EXPECT_EQ(code_of([&] { (void)m.ask("Now?"); }), ErrorCode::kInvalidArgument);
    EXPECT_EQ(code_of([&] { (void)m.fork(); }), ErrorCode::kInvalidArgument);
    int n = 1;
    while (m.read_step()) ++n;
    EXPECT_GT(n, 1);
    EXPECT_TRUE(m.is_read());
    EXPECT_FALSE(m.read_step());
    EXPECT_EQ(m.progress().activity, Generation::Activity::kOver);
}

TEST_P(DocumentMemories, RefuseWhatCannotBe) {
    EXPECT_EQ(code_of([&] { DocumentMemory(engine, {{" \n"}}, {}); }), ErrorCode::kInvalidArgument);
    EXPECT_EQ(code_of([&] { DocumentMemory(engine, std::vector<TextPart>{}, {}); }),
              ErrorCode::kInvalidArgument);
    EXPECT_EQ(code_of([&] { (void)DocumentMemory::load(engine, "/no/such/file", held()); }),
              ErrorCode::kNotFound);
    // A conversation is no memory of documents: a question has been asked in it.
    Conversation talk(engine, held());
    (void)talk.ask(std::string("hello"), {.max_tokens = 4}).run();
    const testing::TemporaryFile saved("");
    talk.save(saved.path());
    EXPECT_EQ(code_of([&] { (void)DocumentMemory::load(engine, saved.path(), held()); }),
              ErrorCode::kCorrupt);
    // One answer at a time.
    DocumentMemory m = memory();
    Generation running = m.ask("And?", {.max_tokens = 12});
    running.step();
    EXPECT_EQ(code_of([&] { (void)m.ask("Now?"); }), ErrorCode::kInvalidArgument);
    running.cancel();
    EXPECT_FALSE(said(m, "Now?").empty());
}

INSTANTIATE_TEST_SUITE_P(Policies, DocumentMemories, ::testing::Values("full", "h2o", "question"),
                         [](const auto& p) { return std::string(p.param); });

}  // namespace
}  // namespace palimpsest
