// Conversations, as users of the library see them.

#include "palimpsest/conversation.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "engine/runtime.h"
#include "engine/session.h"
#include "support/gguf_builder.h"
#include "support/golden.h"
#include "support/tiny_build.h"
#include "support/tiny_model.h"

namespace palimpsest {
namespace {

using testing::code_of;

constexpr const char* kDocument =
    "Rule one: pay at the door. Rule two: leave no bags. Rule three: nobody may whistle here. ";

std::string document(int n) {
    std::string text;
    for (int i = 0; i < n; ++i) text += kDocument;
    return text;
}

class Conversations : public ::testing::Test {
 protected:
    Conversations()
        : file(testing::speaking_model_bytes({.n_ctx = 400}), ".gguf"),
          engine({.model = file.path(), .threads = 1, .chunk = 64}) {}

    [[nodiscard]] Conversation talk(const std::string& policy = "h2o") const {
        return Conversation(
            engine, {.memory = {.budget = "96", .policy = policy, .n_recent = 8, .interval = 16}});
    }
    static std::string said(Conversation& c, const std::string& question) {
        return c.ask(question, {.max_tokens = 12}).run().text;
    }

    testing::TemporaryFile file;
    Engine engine;
};

TEST_F(Conversations, ReplyToWhatOthersSaid) {
    // As turn after turn gives it.
    Conversation one = talk(), other = talk();
    const std::string first = said(one, "What does it cost?");
    EXPECT_EQ(other.reply({{"user", {{"What does it cost?"}}}}, {.max_tokens = 12}).run().text,
              first);
    EXPECT_EQ(code_of([&] {
                  (void)other.reply({{"user", {{"x"}}}});
              }),
              ErrorCode::kInvalidArgument);
    other.reset();
    EXPECT_EQ(code_of([&] { (void)other.reply({}); }), ErrorCode::kInvalidArgument);
    // An answer that was begun goes on.
    const GenerateResult whole =
        other.reply({{"user", {{"hello"}}}, {"assistant", {{"Well, "}}}}, {.max_tokens = 6}).run();
    Conversation bare = talk();
    const GenerateResult before = bare.reply({{"user", {{"hello"}}}}, {.max_tokens = 6}).run();
    const auto begun = engine.runtime().loaded().require_tokenizer().encode("Well, ");
    EXPECT_EQ(whole.n_prompt, before.n_prompt + std::ssize(begun));
}

TEST_F(Conversations, AnswerFromTurnToTurn) {
    Conversation one = talk();
    Conversation other = talk();
    EXPECT_TRUE(one.notes().empty());
    const std::vector<TextPart> first = {{document(8), true}, {"What does it cost?"}};
    EXPECT_EQ(one.ask(first, {.max_tokens = 12}).run().text,
              other.ask(first, {.max_tokens = 12}).run().text);
    EXPECT_EQ(said(one, "And then?"), said(other, "And then?"));
    const MemoryReport report = one.report();
    EXPECT_EQ(report.policy, "h2o");
    EXPECT_GT(report.n_cuts, 0);
    EXPECT_NE(one.report_text(80).find("policy h2o"), std::string::npos);
    EXPECT_NE(one.report_json().find("\"policy\": \"h2o\""), std::string::npos);
    one.reset();
    EXPECT_EQ(one.position(), 0);
    Conversation fresh = talk();
    EXPECT_EQ(said(one, "Who pays?"), said(fresh, "Who pays?"));
}

TEST_F(Conversations, StepByStepIsTheSameAsAtOnce) {
    Conversation at_once = talk();
    Conversation stepwise = talk();
    const std::vector<TextPart> turn = {{document(6), true}, {"What does it cost?"}};
    const GenerateResult whole = at_once.ask(turn, {.max_tokens = 12}).run();
    Generation answer = stepwise.ask(turn, {.max_tokens = 12});
    EXPECT_EQ(stepwise.position(), 0);  // nothing is read before it is asked for
    std::string text;
    int64_t last = -1;
    int n_reading = 0;
    while (answer.step()) {
        text += answer.take_text();
        const Generation::Progress p = answer.progress();
        if (p.activity == Generation::Activity::kReading) {
            ++n_reading;
            EXPECT_GT(p.done, last);
            EXPECT_LE(p.done, p.total);
            last = p.done;
        }
    }
    text += answer.take_text();
    EXPECT_GT(n_reading, 1);
    EXPECT_EQ(text, whole.text);
    EXPECT_EQ(answer.result().tokens, whole.tokens);
    EXPECT_EQ(answer.progress().activity, Generation::Activity::kOver);
    EXPECT_FALSE(answer.step());
}

TEST_F(Conversations, ACancelledTurnLeavesARoomForTheNext) {
    Conversation c = talk("window");
    {
        Generation answer = c.ask(std::vector<TextPart>{{document(6), true}, {"So?"}});
        EXPECT_TRUE(answer.step());
        EXPECT_EQ(code_of([&] { static_cast<void>(c.ask("Two at once?")); }),
                  ErrorCode::kInvalidArgument);
        answer.cancel();
        EXPECT_EQ(answer.result().reason, StopReason::kCancelled);
        EXPECT_FALSE(answer.step());
    }
    const int64_t read = c.position();
    EXPECT_GT(read, 0);
    EXPECT_FALSE(said(c, "And now?").empty());
    // Who lets go of an answer has stopped it.
    { Generation forgotten = c.ask("Never read?"); }
    EXPECT_FALSE(said(c, "And now?").empty());
}

/// What is over is over: to cancel it again must not touch what runs now.
TEST_F(Conversations, ACancelOfAnOldTurnLeavesTheNewOneAlone) {
    Conversation c = talk("window");
    Conversation other = talk("window");
    Generation old = c.ask("One?", {.max_tokens = 4});
    old.run();
    other.ask("One?", {.max_tokens = 4}).run();
    const std::vector<TextPart> turn = {{document(4), true}, {"Two?"}};
    Generation now = c.ask(turn, {.max_tokens = 8});
    EXPECT_TRUE(now.step());
    old.cancel();
    EXPECT_EQ(now.run().text, other.ask(turn, {.max_tokens = 8}).run().text);
}

/// A token that was picked and not read is read by the next turn, once: also after an error.
TEST_F(Conversations, AfterAnErrorWhileWritingNothingIsReadTwice) {
    testing::GgufBuilder model = testing::tiny_llama(testing::kTinyBpeTokens);
    testing::add_bpe_vocabulary(model, "z");
    const testing::TemporaryFile lacking(model.bytes(), ".gguf");
    const Engine other({.model = lacking.path(), .threads = 1});
    Conversation c(other);
    AnswerOptions options = {.max_tokens = 40};
    options.sampling.grammar = "root ::= \"abz\"";  // for the last there is no token
    Generation answer = c.ask("Say it.", options);
    const int64_t n_prompt = answer.result().n_prompt;
    EXPECT_THROW(answer.run(), Error);
    const int64_t n_written = answer.result().n_generated;
    EXPECT_EQ(n_written, 2);
    const int64_t n_unread = n_prompt + n_written - c.position();
    EXPECT_EQ(n_unread, 0);
    Conversation plain(other);
    plain.ask("Say it.", {.max_tokens = 1}).run();  // its one token is unread
    EXPECT_EQ(c.ask("And?").result().n_prompt, plain.ask("And?").result().n_prompt - 1);
}

TEST_F(Conversations, ARefusedFileLeavesTheConversationAsItWas) {
    const testing::TemporaryFolder folder;
    const std::string path = folder.path() + "/other.saved";
    const testing::TemporaryFile model(testing::speaking_model_bytes({.n_ctx = 400, .seed = 2}),
                                       ".gguf");
    const Engine another({.model = model.path(), .threads = 1, .chunk = 64});
    Conversation(another).save(path);
    Conversation c(engine);
    Conversation same(engine);
    said(c, "Hello?");
    said(same, "Hello?");
    EXPECT_EQ(code_of([&] { c.load(path); }), ErrorCode::kInvalidArgument);
    EXPECT_EQ(said(c, "More?"), said(same, "More?"));
}

TEST_F(Conversations, OfMemoriesThatRehearseCanBeStoppedBetweenAnyTwoSteps) {
    const Engine patient({.model = file.path(), .threads = 1, .chunk = 128});
    const MemoryChoice choice = {.budget = "96", .policy = "kvzip", .n_recent = 8, .interval = 16};
    const auto turn = std::vector<TextPart>{{document(6), true}, {"So?"}};
    Conversation c(patient, {.memory = choice});
    Generation answer = c.ask(turn, {.max_tokens = 8});
    EXPECT_TRUE(answer.step());  // a chunk, and its repetition
    EXPECT_TRUE(c.session().sequence().is_between_steps());
    answer.cancel();
    EXPECT_NO_THROW(c.ask("And now?", {.max_tokens = 8}).run());
}

TEST_F(Conversations, OptionsOutsideTheirRangeAreRefusedBeforeAModelIsLoaded) {
    EXPECT_EQ(code_of([] { Engine e({.model = "no/such", .chunk = 0}); }),
              ErrorCode::kInvalidArgument);
}

TEST_F(Conversations, ATurnThatDoesNotFitChangesNothing) {
    Conversation c(engine);
    said(c, "Hello?");
    const int64_t before = c.position();
    EXPECT_EQ(code_of([&] { c.ask(document(30)).run(); }), ErrorCode::kExhausted);
    EXPECT_EQ(c.position(), before);
    Conversation other(engine);
    said(other, "Hello?");
    EXPECT_EQ(said(c, "More?"), said(other, "More?"));
}

// Once, one conversation's template became everybody's: the tokenizer was changed.
TEST_F(Conversations, HaveTemplatesOfTheirOwn) {
    Conversation own(engine);
    const std::string before = said(own, "Hello?");
    Conversation llama(engine, {.chat_template = "llama3"});
    const int64_t n = own.position();
    said(llama, "Hello?");
    Conversation again(engine);
    EXPECT_EQ(said(again, "Hello?"), before);
    EXPECT_EQ(again.position(), n);
    EXPECT_NE(llama.position(), n);
    EXPECT_EQ(code_of([&] { Conversation c(engine, {.chat_template = "esperanto"}); }),
              ErrorCode::kInvalidArgument);
}

TEST_F(Conversations, GoOnFromAFile) {
    const testing::TemporaryFolder folder;
    const std::string path = folder.path() + "/talk.saved";
    for (const char* policy : {"h2o", "window+merge", "snap-kv:window=8"}) {
        SCOPED_TRACE(policy);
        Conversation c = talk(policy);
        c.ask(std::vector<TextPart>{{document(6), true}, {"So?"}}, {.max_tokens = 5}).run();
        c.save(path);
        const std::string next = said(c, "And then?");
        Conversation loaded = talk(policy);
        loaded.load(path);
        EXPECT_EQ(said(loaded, "And then?"), next);
    }
    // Of another policy, template or model: refused, with the file's name.
    const auto refused = [&](Conversation c) {
        try {
            c.load(path);
            ADD_FAILURE() << "it was taken";
        } catch (const Error& e) {
            EXPECT_NE(std::string(e.what()).find("talk.saved"), std::string::npos) << e.what();
        }
        EXPECT_EQ(c.position(), 0);
    };
    refused(talk("h2o"));
    refused(Conversation(engine, {.chat_template = "llama3"}));
    const testing::TemporaryFile other(testing::speaking_model_bytes({.n_ctx = 400, .seed = 2}),
                                       ".gguf");
    const Engine another({.model = other.path(), .threads = 1, .chunk = 64});
    refused(Conversation(
        another,
        {.memory = {.budget = "96", .policy = "snap-kv:window=8", .n_recent = 8, .interval = 16}}));
    EXPECT_EQ(code_of([&] { talk().load(folder.path() + "/none"); }), ErrorCode::kNotFound);
}

TEST_F(Conversations, ModelsWithoutWordsGoOnFromIds) {
    const testing::TemporaryFile mute(testing::tiny_llama().bytes(), ".gguf");
    const Engine silent({.model = mute.path(), .threads = 1});
    EXPECT_FALSE(silent.has_vocabulary());
    Conversation c(silent);
    const GenerateResult r = c.go_on_from({1, 2, 3}, {.max_tokens = 4}).run();
    EXPECT_EQ(r.tokens.size(), 4);
    EXPECT_EQ(r.text, "");
    EXPECT_EQ(code_of([&] { static_cast<void>(c.ask("Hello?")); }), ErrorCode::kUnsupported);
    EXPECT_EQ(code_of([&] { c.go_on_from({-1}).run(); }), ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace palimpsest
