// Many requests over one model: each gets what it would get alone, and goes on from what was read.

#include "server/scheduler/scheduler.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <future>
#include <mutex>
#include <thread>

#include "palimpsest/engine.h"
#include "support/golden.h"
#include "support/shared_objects.h"
#include "support/tiny_model.h"

namespace palimpsest {
namespace {

/// Waits for what comes of a request.
class Waiter final : public WorkListener {
 public:
    void on_progress(const WorkProgress& p) override {
        const std::scoped_lock guard(mutex_);
        progress = p;
    }
    void on_piece(WorkPiece piece) override {
        const std::scoped_lock guard(mutex_);
        if (texts.size() <= piece.choice) texts.resize(piece.choice + 1);
        texts[piece.choice] += piece.text;
        ++n_pieces;
        changed_.notify_all();
    }
    void on_done(WorkResult r) override {
        const std::scoped_lock guard(mutex_);
        result = std::move(r);
        is_over = true;
        changed_.notify_all();
    }
    void on_failed(const ApiError& e) override {
        const std::scoped_lock guard(mutex_);
        error = e.what();
        status = e.status;
        is_over = true;
        changed_.notify_all();
    }
    bool wait(int n_wanted_pieces = -1) {
        std::unique_lock lock(mutex_);
        return changed_.wait_for(lock, std::chrono::seconds(60), [&] {
            return is_over || (n_wanted_pieces >= 0 && n_pieces >= n_wanted_pieces);
        });
    }

    WorkProgress progress;
    std::vector<std::string> texts;
    int n_pieces = 0;
    WorkResult result;
    std::string error;
    int status = 0;
    bool is_over = false;

 private:
    std::mutex mutex_;
    std::condition_variable changed_;
};

class Schedules : public ::testing::Test {
 protected:
    Schedules()
        : file(testing::speaking_model_bytes({.n_ctx = 600}), ".gguf"),
          engine({.model = file.path(), .threads = 1, .chunk = 128}) {}

    void begin(SchedulerOptions options = {}, SessionStore* store = nullptr) {
        scheduler.reset();
        scheduler = std::make_unique<Scheduler>(engine.runtime(), options, store, metrics);
    }
    /// A store that outlives the scheduler, which writes to it until its own end.
    SessionStore* keep(std::unique_ptr<SessionStore> store) {
        stores.push_back(std::move(store));
        return stores.back().get();
    }

    [[nodiscard]] Work work(const std::string& text, int n_answers = 1, int most = 12) const {
        const Tokenizer& t = engine.runtime().loaded().require_tokenizer();
        Work w;
        const std::vector<ChatMessage> messages = {{"user", {{text}}}};
        w.prompt = t.encode_chat(messages);
        for (int i = 0; i < n_answers; ++i) {
            const AnswerOptions answer = {
                .sampling = {.temperature = i == 0 ? 0.0F : 1.0F, .seed = static_cast<uint32_t>(i)},
                .max_tokens = most};
            w.writers.push_back(
                std::make_unique<AnswerWriter>(&t, engine.runtime().config().n_vocab, answer));
        }
        w.most_tokens = most;
        w.id = "id";
        w.transcript.messages = "[]";
        return w;
    }
    static Work bounded(Work w, const std::string& policy = "h2o") {
        w.memory = {.budget = "96", .policy = policy, .n_recent = 8, .interval = 16};
        return w;
    }
    std::shared_ptr<Waiter> submit(Work w) {
        auto waiter = std::make_shared<Waiter>();
        id = scheduler->submit(std::move(w), waiter);
        return waiter;
    }
    std::shared_ptr<Waiter> run(Work w) {
        auto waiter = submit(std::move(w));
        EXPECT_TRUE(waiter->wait());
        EXPECT_EQ(waiter->error, "");
        return waiter;
    }
    /// The next turn: what was read, and more.
    [[nodiscard]] Work next(const std::string& text, const std::string& answer,
                            const std::string& more) const {
        const Tokenizer& t = engine.runtime().loaded().require_tokenizer();
        Work w = work(text);
        const std::vector<ChatMessage> messages = {
            {"user", {{text}}}, {"assistant", {{answer}}}, {"user", {{more}}}};
        w.prompt = t.encode_chat(messages);
        return w;
    }

    static std::string text(int n) {
        std::string all;
        for (int i = 0; i < n; ++i) all += cat("line ", i, " is here. ");
        return all;
    }

    testing::TemporaryFile file;
    Engine engine;
    Metrics metrics;
    std::vector<std::unique_ptr<SessionStore>> stores;
    std::unique_ptr<Scheduler> scheduler;
    uint64_t id = 0;
};

TEST_F(Schedules, ManyAtOnceAnswerAsEachAlone) {
    std::vector<std::string> alone;
    for (int i = 0; i < 8; ++i) {
        begin();
        Work w = work(text(3 * i + 1));
        alone.push_back(run(i % 2 == 0 ? std::move(w) : bounded(std::move(w)))->texts.at(0));
    }
    begin();
    std::vector<std::shared_ptr<Waiter>> waiters;
    for (int i = 0; i < 8; ++i) {
        Work w = work(text(3 * i + 1));
        w.owner = std::to_string(i);  // nothing is shared
        waiters.push_back(submit(i % 2 == 0 ? std::move(w) : bounded(std::move(w))));
    }
    for (size_t i = 0; i < 8; ++i) {
        ASSERT_TRUE(waiters[i]->wait());
        EXPECT_EQ(waiters[i]->texts.at(0), alone[i]) << i;
        EXPECT_EQ(waiters[i]->result.n_cached, 0);
    }
    EXPECT_TRUE(scheduler->is_idle());
}

TEST_F(Schedules, ATurnGoesOnFromTheLast) {
    for (const bool is_bounded : {false, true}) {
        begin();
        Work one = work(text(5));
        one.session = "talk";
        const auto first = run(is_bounded ? bounded(std::move(one)) : std::move(one));
        Work two = next(text(5), first->result.answers[0].text, "more");
        two.session = "talk";
        const int64_t n_first = first->result.n_prompt;
        const auto second = run(is_bounded ? bounded(std::move(two)) : std::move(two));
        // The answer's own tokens are as the text's would be, or not: what was read before is.
        EXPECT_GE(second->result.n_cached, n_first - 1) << is_bounded;
        EXPECT_EQ(metrics.sessions, 1);
    }
}

TEST_F(Schedules, TheSameAgainReadsOneToken) {
    for (const bool is_bounded : {false, true}) {
        begin();
        for (int i = 0; i < 3; ++i) {
            Work w = work(text(12));
            const auto waiter = run(is_bounded ? bounded(std::move(w)) : std::move(w));
            EXPECT_EQ(waiter->result.n_cached, i == 0 ? 0 : waiter->result.n_prompt - 1);
        }
    }
}

/// A share of a prompt comes to other numbers for other prompts; whoever goes on keeps the first's.
TEST_F(Schedules, SharesOfPromptsGoOnAndHarmNobody) {
    begin();
    const auto share = [](Work w) {
        w.memory = {.budget = "25%", .policy = "window"};
        return w;
    };
    Work slow = share(work(text(20) + "and so on", 1, 60));
    const auto running = submit(std::move(slow));
    ASSERT_TRUE(running->wait(3));
    for (const int n : {20, 21, 22, 25}) {
        const auto other = run(share(work(text(n))));
        EXPECT_EQ(other->error, "");
    }
    ASSERT_TRUE(running->wait());
    EXPECT_EQ(running->error, "");
    EXPECT_EQ(running->result.answers[0].n_generated, 60);
    EXPECT_EQ(metrics.sessions_refused, 0);
    EXPECT_EQ(metrics.sessions, 5);
}

TEST_F(Schedules, AFailedTurnLeavesWhatWasStored) {
    const testing::TemporaryFolder folder;
    SessionStore* const store = keep(open_sessions(folder.path()));
    begin({}, store);
    Work one = work(text(5));
    one.session = "talk";
    static_cast<void>(run(std::move(one)));
    Work two = next(text(5), "yes", text(200));  // too long
    two.session = "talk";
    const auto failed = submit(std::move(two));
    ASSERT_TRUE(failed->wait());
    EXPECT_EQ(failed->status, 400);
    scheduler.reset();
    std::vector<std::string> refused;
    ASSERT_EQ(store->list(refused).size(), 1U);
    EXPECT_TRUE(refused.empty());
    begin({}, store);
    Work again = work(text(5));
    again.session = "talk";
    EXPECT_GT(run(std::move(again))->result.n_cached, 20);
    scheduler.reset();
}

TEST_F(Schedules, AnotherServerGoesOnFromASharedStore) {
    const auto content = std::make_shared<testing::BucketContent>();
    SessionStore* const one = keep(sessions_in(std::make_unique<testing::SharedObjects>(content)));
    SessionStore* const two = keep(sessions_in(std::make_unique<testing::SharedObjects>(content)));
    const auto turn = [&](SessionStore& store, Work w) {
        w.session = "talk";
        w.owner = "someone";
        begin({}, &store);
        const auto waiter = run(std::move(w));
        scheduler.reset();  // and everything is written
        return waiter;
    };
    const std::string first = turn(*one, work(text(20)))->texts.at(0);
    const auto second = turn(*two, next(text(20), first, "and then"));
    EXPECT_GT(second->result.n_cached, 100);
    // Of another owner it is not.
    begin({}, two);
    Work other = next(text(20), first, "and then");
    other.session = "talk";
    EXPECT_EQ(run(std::move(other))->result.n_cached, 0);
    scheduler.reset();
}

TEST_F(Schedules, AServerThatFellBehindReadsWhatAnotherWrote) {
    const auto content = std::make_shared<testing::BucketContent>();
    SessionStore* const one = keep(sessions_in(std::make_unique<testing::SharedObjects>(content)));
    SessionStore* const two = keep(sessions_in(std::make_unique<testing::SharedObjects>(content)));
    const Engine engine_two({.model = file.path(), .threads = 1, .chunk = 128});
    Metrics metrics_two;
    begin({}, one);
    Scheduler other(engine_two.runtime(), {}, two, metrics_two);
    const auto ask = [&](Scheduler& of, Work w) {
        w.session = "talk";
        auto waiter = std::make_shared<Waiter>();
        of.submit(std::move(w), waiter);
        EXPECT_TRUE(waiter->wait());
        EXPECT_EQ(waiter->error, "");
        // Written, too: a second look at the store would else come too early.
        const Metrics& m = &of == &other ? metrics_two : metrics;
        for (int i = 0; i < 500 && m.sessions_saved + m.save_conflicts == 0; ++i) {
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
        }
        return waiter;
    };
    static_cast<void>(ask(*scheduler, work(text(10))));
    // Another text by the same name, longer than what the first server holds of it.
    const auto longer = ask(other, work(text(30)));
    EXPECT_GT(longer->result.n_cached, 30);
    const auto again = ask(*scheduler, work(text(31)));
    EXPECT_GT(again->result.n_cached, longer->result.n_prompt / 2);
    EXPECT_EQ(metrics.save_failures + metrics_two.save_failures, 0);
}

TEST_F(Schedules, ABucketThatCannotBeReachedCostsNoAnswer) {
    const auto content = std::make_shared<testing::BucketContent>();
    SessionStore* const store =
        keep(sessions_in(std::make_unique<testing::SharedObjects>(content)));
    begin({}, store);
    content->is_down = true;
    Work w = work(text(5));
    w.session = "talk";
    EXPECT_FALSE(run(std::move(w))->texts.at(0).empty());
    scheduler.reset();
    EXPECT_GT(metrics.save_failures, 0);
    EXPECT_TRUE(content->objects.empty());
}

/// A document that was read for one question is read anew for another: what was kept of it was kept
/// for the first. Without a question, or by a policy that asks none, it is shared.
TEST_F(Schedules, ADocumentIsReadForEachQuestion) {
    const Tokenizer& t = engine.runtime().loaded().require_tokenizer();
    const auto ask = [&](const std::string& policy, const std::string& question) {
        Work w = bounded(work(""), policy);
        const std::vector<ChatMessage> messages = {{"user", {{text(30), true}, {question}}}};
        w.prompt = t.encode_chat(messages);
        return run(std::move(w))->result.n_cached;
    };
    for (const char* policy : {"window", "question"}) {
        SCOPED_TRACE(policy);
        begin();
        EXPECT_EQ(ask(policy, "one?"), 0);
        const int64_t cached = ask(policy, "two, then?");
        const bool is_shared = std::string(policy) == "window";
        EXPECT_EQ(cached > 100, is_shared) << cached;
        EXPECT_GT(ask(policy, "one?"), 100);  // the same again
    }
}

TEST_F(Schedules, CheckpointsDoNotGrowWithTurns) {
    begin();
    Work w = bounded(work(text(6)), "window");
    const std::vector<Segment> first = w.prompt;
    const int64_t n = length_of(first, 1);
    static_cast<void>(run(std::move(w)));
    for (int i = 0; i < 10; ++i) {
        std::promise<std::vector<TokenId>> tokens;
        scheduler->ask([&](SequenceTable& t) {
            const Remembered& r = *t.of_owner("").front();
            EXPECT_LE(r.checkpoints.size(), 3U);
            tokens.set_value(r.head.tokens);
        });
        const std::vector<TokenId> ids = tokens.get_future().get();
        w = bounded(work(""), "window");
        w.prompt = first;
        w.prompt.push_back({.tokens = {ids.begin() + n, ids.end()}});
        w.prompt.back().tokens.insert(w.prompt.back().tokens.end(), {5, 6, 7});
        EXPECT_EQ(run(std::move(w))->result.n_cached, std::ssize(ids));
    }
    EXPECT_EQ(metrics.sessions, 1);
}

TEST_F(Schedules, WhatMustStayIsReadAgainWhereItWasNotMarked) {
    begin();
    const auto roomy = [](Work w) {
        w = bounded(std::move(w));
        w.memory.budget = "300";
        return w;
    };
    static_cast<void>(run(roomy(work(text(12)))));
    Work marked = roomy(work(text(12)));
    int64_t at = 0;
    for (Segment& s : marked.prompt) {
        if (!s.keep) {
            s.keep = true;
            break;
        }
        at += std::ssize(s.tokens);
    }
    EXPECT_LE(run(std::move(marked))->result.n_cached, at);
}

TEST_F(Schedules, OwnersShareNothing) {
    begin();
    static_cast<void>(run(work(text(5))));
    Work w = work(text(5));
    w.owner = "another";
    EXPECT_EQ(run(std::move(w))->result.n_cached, 0);
    std::vector<std::string> ids;
    std::promise<size_t> n;
    scheduler->ask([&](SequenceTable& t) { n.set_value(t.of_owner("another").size()); });
    EXPECT_EQ(n.get_future().get(), 1U);
}

TEST_F(Schedules, SeveralAnswersGoOnFromOneReading) {
    for (const bool is_bounded : {false, true}) {
        begin();
        const auto read = [&](Work w) { return is_bounded ? bounded(std::move(w)) : std::move(w); };
        const std::string first = run(read(work(text(9))))->texts.at(0);
        begin();
        const auto waiter = run(read(work(text(9), 3)));
        ASSERT_EQ(waiter->result.answers.size(), 3U);
        EXPECT_EQ(waiter->texts.at(0), first);
        EXPECT_EQ(waiter->result.answers[1].text, waiter->texts.at(1));
        // Again, from what is remembered.
        EXPECT_EQ(run(read(work(text(9), 3)))->texts, waiter->texts);
    }
}

TEST_F(Schedules, WhatIsCancelledEndsAndTheRestGoesOn) {
    begin();
    Work w = work(text(4), 1, 400);
    w.owner = "one";
    const auto endless = submit(std::move(w));
    const uint64_t endless_id = id;
    ASSERT_TRUE(endless->wait(2));
    const auto other = submit(work(text(6)));
    scheduler->cancel(endless_id);
    EXPECT_TRUE(other->wait());
    EXPECT_EQ(other->error, "");
    EXPECT_FALSE(endless->is_over);
    EXPECT_TRUE(scheduler->is_idle());
    scheduler->cancel(endless_id);  // once more does nothing
    scheduler->cancel(12345);
    EXPECT_EQ(metrics.cancelled, 1);
}

TEST_F(Schedules, ACancelledRehearsalIsForgotten) {
    begin();
    for (int i = 0; i < 20; ++i) {
        const auto waiter = submit(bounded(work(text(20 + i)), "kvzip"));
        for (int spin = 0; spin < i * 200; ++spin) std::this_thread::yield();
        scheduler->cancel(id);
    }
    EXPECT_EQ(run(bounded(work(text(20)), "kvzip"))->error, "");
}

TEST_F(Schedules, AShortPromptPassesALongOne) {
    begin({.step_rows = 128});
    Work w = work(text(25), 1, 1);
    w.owner = "long";
    const auto slow = submit(std::move(w));
    const auto quick = submit(work("hi", 1, 1));
    ASSERT_TRUE(quick->wait());
    ASSERT_TRUE(slow->wait());
    EXPECT_LT(quick->result.first_token_s, slow->result.first_token_s);
}

TEST_F(Schedules, AFullQueueSaysSo) {
    begin({.most_running = 1, .most_waiting = 2});
    std::vector<std::shared_ptr<Waiter>> waiters;
    int n_refused = 0;
    for (int i = 0; i < 12; ++i) {
        try {
            waiters.push_back(submit(work(text(10), 1, 100)));
        } catch (const ApiError& e) {
            EXPECT_EQ(e.status, 503);
            ++n_refused;
        }
    }
    EXPECT_GE(n_refused, 6);
    for (const auto& w : waiters) EXPECT_TRUE(w->wait());
    scheduler->drain();
    EXPECT_THROW(static_cast<void>(submit(work("late"))), ApiError);
}

TEST_F(Schedules, WhatCannotBeIsSaidAndHarmsNobody) {
    begin();
    const auto waiter = submit(work(text(300)));
    ASSERT_TRUE(waiter->wait());
    EXPECT_EQ(waiter->status, 400);
    EXPECT_NE(waiter->error.find("context"), std::string::npos) << waiter->error;
    EXPECT_EQ(run(work("hello"))->error, "");
    EXPECT_TRUE(scheduler->is_idle());
}

TEST_F(Schedules, MemoryIsHeldToItsLimit) {
    begin({.table = {.most_bytes = 600 << 10}});
    for (int i = 0; i < 12; ++i) {
        static_cast<void>(run(work(cat(i, text(20)))));
        EXPECT_LE(metrics.bytes_idle + metrics.bytes_checkpoints, 600 << 10);
    }
    EXPECT_LT(metrics.sessions, 12);
    begin({.table = {.most_bytes = 1000}});
    const auto waiter = submit(work("hello"));
    ASSERT_TRUE(waiter->wait());
    EXPECT_NE(waiter->error.find("MiB"), std::string::npos);
}

TEST_F(Schedules, ConversationsOutliveTheProgram) {
    for (const bool is_bounded : {false, true}) {
        const testing::TemporaryFolder folder;
        std::string answer;
        int64_t n_read = 0;
        {
            SessionStore* const store = keep(open_sessions(folder.path()));
            begin({}, store);
            Work w = work(text(12));
            const auto first = run(is_bounded ? bounded(std::move(w)) : std::move(w));
            answer = first->result.answers[0].text;
            n_read = first->result.memory.tokens_in;
            scheduler.reset();
            stores.clear();  // so that its folder can be opened again
        }
        SessionStore* const store = keep(open_sessions(folder.path()));
        begin({}, store);
        EXPECT_EQ(metrics.sessions, 1);
        const auto go_on = [&] {
            Work w = next(text(12), answer, "more");
            // As it was read, for sure.
            std::promise<std::vector<TokenId>> tokens;
            scheduler->ask(
                [&](SequenceTable& t) { tokens.set_value(t.of_owner("").front()->head.tokens); });
            std::vector<TokenId> ids = tokens.get_future().get();
            ids.push_back(5);
            ids.push_back(6);
            w.prompt = work(text(12)).prompt;  // with what must stay of it
            const int64_t n = length_of(w.prompt, 1);
            w.prompt.push_back({.tokens = {ids.begin() + n, ids.end()}});
            return is_bounded ? bounded(std::move(w)) : std::move(w);
        };
        const int64_t n_restored = metrics.sessions_restored;
        EXPECT_EQ(run(go_on())->result.n_cached, n_read);
        EXPECT_EQ(metrics.sessions_restored, n_restored + 1);
        scheduler.reset();
        stores.clear();
    }
}

TEST_F(Schedules, ConversationsAreForkedExportedImportedAndDeleted) {
    for (const bool is_stored : {false, true}) {
        const testing::TemporaryFolder folder;
        SessionStore* const store = keep(open_sessions(folder.path()));
        begin({}, is_stored ? store : nullptr);
        Work w = work(text(6));
        w.session = "mine";
        static_cast<void>(run(std::move(w)));
        std::promise<void> done;
        scheduler->ask([&](SequenceTable& t) {
            Remembered& r = t.find("", "mine");
            EXPECT_EQ(&r, &t.find("", "id"));  // by the response's id
            EXPECT_THROW((void)t.find("another", "mine"), ApiError);
            const Remembered& copy = t.fork(r);
            EXPECT_EQ(copy.head.tokens, r.head.tokens);
            const std::string exported = t.exported(r);
            EXPECT_NE(&t.import("", exported), &copy);
            EXPECT_THROW((void)t.import("", exported.substr(0, exported.size() / 2)), Error);
            t.rename(r, "title");
            EXPECT_EQ(t.of_owner("").size(), 3U);
            t.remove(r);
            EXPECT_EQ(t.of_owner("").size(), 2U);
            done.set_value();
        });
        done.get_future().get();
        // The copy is gone on with.
        Work again = work(text(6));
        EXPECT_GT(run(std::move(again))->result.n_cached, 20) << is_stored;
        scheduler.reset();
    }
}

TEST_F(Schedules, TheMeanOfHiddenStatesDoesNotDependOnSteps) {
    begin();
    const auto mean = [&](int64_t owner) {
        Work w = work(text(30), 0);
        w.is_kept = false;
        w.owner = std::to_string(owner);
        return run(std::move(w))->result.mean_hidden;
    };
    const std::vector<float> once = mean(0);
    ASSERT_EQ(std::ssize(once), engine.runtime().config().n_embd);
    EXPECT_LT(testing::max_difference(once, mean(1)), 1e-6);
    EXPECT_EQ(metrics.sessions, 0);  // nothing is remembered of it
}

}  // namespace
}  // namespace palimpsest
