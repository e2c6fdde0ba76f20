// Conversations in folders: whole or not at all, and nobody else's.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "core/error.h"
#include "core/random.h"
#include "server/sessions/session_saver.h"
#include "server/sessions/session_store.h"
#include "support/golden.h"
#include "support/shared_objects.h"
#include "support/tiny_build.h"

namespace palimpsest {
namespace {

namespace fs = std::filesystem;
using testing::code_of;

SessionHead head(const std::string& id, int n = 5) {
    SessionHead h = {.id = id, .owner = "o", .key = "k", .model = "m", .memory = "b", .title = "t"};
    for (int i = 0; i < n; ++i) h.tokens.push_back(i);
    h.responses = {{"r1", 1}, {"r2", 3}};
    h.entries = 96;
    h.kept = {{2, 4}};
    h.messages = R"([{"role":"user"}])";
    h.report = "{}";
    return h;
}

std::vector<SessionHead> listed(SessionStore& store, size_t n_refused = 0) {
    std::vector<std::string> refused;
    std::vector<SessionHead> all = store.list(refused);
    EXPECT_EQ(refused.size(), n_refused);
    return all;
}

TEST(SessionFolder, GivesBackWhatWasSaved) {
    const testing::TemporaryFolder folder;
    {
        const auto store = open_sessions(folder.path());
        EXPECT_TRUE(listed(*store).empty());
        store->save(head("s-a"), "state one");
        store->save(head("s-b", 0), "");
        store->save(head("s-a", 7), "state two");
    }
    const auto store = open_sessions(folder.path());
    std::vector<SessionHead> all = listed(*store);
    std::ranges::sort(all, {}, &SessionHead::id);
    ASSERT_EQ(all.size(), 2U);
    EXPECT_EQ(all[0].tokens.size(), 7U);
    EXPECT_EQ(store->part("s-a", "messages"), head("s-a").messages);
    EXPECT_EQ(store->part("s-a", "report"), "{}");
    ASSERT_EQ(all[0].responses.size(), 2U);
    EXPECT_EQ(all[0].responses[1].id, "r2");
    EXPECT_EQ(all[0].responses[1].n_messages, 3);
    EXPECT_EQ(all[0].entries, 96);
    EXPECT_EQ(all[0].kept, head("s-a").kept);
    EXPECT_EQ(store->part("s-a", "state"), "state two");
    EXPECT_EQ(store->part("s-b", "state"), "");
    // Nothing is left of what was replaced.
    size_t n_states = 0;
    for (const auto& entry : fs::directory_iterator(folder.path() + "/s-a")) {
        if (entry.path().filename().string().starts_with("state-")) ++n_states;
    }
    EXPECT_EQ(n_states, 1U);
    store->remove("s-a");
    store->remove("s-a");
    EXPECT_EQ(listed(*store).size(), 1U);
    EXPECT_EQ(code_of([&] { (void)store->part("s-a", "state"); }), ErrorCode::kNotFound);
    EXPECT_EQ(code_of([&] { (void)store->part("../s-b", "state"); }), ErrorCode::kNotFound);
}

TEST(SessionFolder, IsOneProcesssAlone) {
    const testing::TemporaryFolder folder;
    const auto store = open_sessions(folder.path());
    EXPECT_EQ(code_of([&] { (void)open_sessions(folder.path()); }), ErrorCode::kInvalidArgument);
}

/// Flips every so many-th byte of every file, cuts every file short, removes every file: each time
/// the conversation is refused or as it was, and the other one is there.
TEST(SessionFolder, DamageIsFoundOut) {
    const testing::TemporaryFolder folder;
    const auto store = open_sessions(folder.path());
    store->save(head("s-a"), "the state of a conversation");
    store->save(head("s-b"), "another");
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(folder.path() + "/s-a")) {
        files.push_back(entry.path());
    }
    const auto look = [&] {
        std::vector<std::string> refused;
        const std::vector<SessionHead> all = store->list(refused);
        EXPECT_LE(all.size() + refused.size(), 2U);
        EXPECT_EQ(store->part("s-b", "state"), "another");
        try {
            EXPECT_EQ(store->part("s-a", "state"), "the state of a conversation");
            EXPECT_EQ(store->part("s-a", "messages"), head("s-a").messages);
            EXPECT_EQ(store->part("s-a", "report"), head("s-a").report);
            return refused.empty();
        } catch (const Error&) {
            return false;
        }
    };
    EXPECT_TRUE(look());
    for (const fs::path& file : files) {
        std::ifstream in(file, std::ios::binary);
        const std::string whole((std::istreambuf_iterator<char>(in)), {});
        const auto put = [&](const std::string& content) {
            std::ofstream(file, std::ios::binary) << content;
        };
        for (size_t at = 0; at < whole.size(); at += 3) {
            std::string flipped = whole;
            flipped[at] = static_cast<char>(flipped[at] ^ 0x20);
            put(flipped);
            EXPECT_FALSE(look()) << file << " " << at;
        }
        for (const size_t n : {size_t{0}, size_t{5}, whole.size() - 1}) {
            put(whole.substr(0, n));
            EXPECT_FALSE(look()) << file << " cut to " << n;
        }
        fs::remove(file);
        look();  // without its manifest it is none
        put(whole);
        EXPECT_TRUE(look());
    }
}

/// A process that saves again and again is killed at some moment: what is there is one of the
/// versions, whole, and never an older one than was there before. PALIMPSEST_KILLS says how often.
TEST(SessionFolder, KilledAtAnyMomentTheOldOneIsThereOrTheNew) {
    const char* wanted = std::getenv("PALIMPSEST_KILLS");  // NOLINT(concurrency-mt-unsafe)
    const int n_kills = wanted == nullptr ? 100 : std::atoi(wanted);
    const testing::TemporaryFolder folder;
    Random random(1);
    int64_t last = -1;
    int n_seen = 0;
    int64_t most = 15000;  // microseconds; longer where a disk is slower
    for (int i = 0; i < n_kills; ++i) {
        const pid_t child = fork();
        ASSERT_GE(child, 0);
        if (child == 0) {
            const auto store = open_sessions(folder.path());
            for (int64_t version = last + 1;; ++version) {
                SessionHead h = head("s-a", static_cast<int>(version % 50));
                h.title = std::to_string(version);
                store->save(h, std::string(200000, static_cast<char>('a' + version % 26)));
            }
        }
        std::this_thread::sleep_for(std::chrono::microseconds(500 + random.below(most)));
        kill(child, SIGKILL);
        int status = 0;
        waitpid(child, &status, 0);
        const auto store = open_sessions(folder.path());
        const std::vector<SessionHead> all = listed(*store);
        if (all.empty()) {
            ASSERT_EQ(last, -1);  // it was never there yet
            most = std::min<int64_t>(2 * most, 1000000);
            continue;
        }
        ++n_seen;
        const int64_t version = std::stoll(all[0].title);
        ASSERT_GE(version, last);
        if (version == last) most = std::min<int64_t>(most + most / 4, 1000000);
        last = version;
        EXPECT_EQ(std::ssize(all[0].tokens), version % 50);
        EXPECT_EQ(store->part("s-a", "state"),
                  std::string(200000, static_cast<char>('a' + version % 26)));
    }
    EXPECT_GT(n_seen, 0);
    EXPECT_GT(last, 0);
}

TEST(SessionFolder, ExportsAreTakenBackWholeOrNotAtAll) {
    const std::string file = packed(head("s-a"), "state");
    std::string state;
    EXPECT_EQ(unpacked(file, state).tokens, head("s-a").tokens);
    EXPECT_EQ(state, "state");
    for (size_t n = 0; n < file.size(); n += 7) {
        EXPECT_EQ(code_of([&] { (void)unpacked(file.substr(0, n), state); }), ErrorCode::kCorrupt);
        std::string flipped = file;
        flipped[n] = static_cast<char>(flipped[n] ^ 1);
        EXPECT_EQ(code_of([&] { (void)unpacked(flipped, state); }), ErrorCode::kCorrupt) << n;
    }
}

TEST(SessionSaver, WritesTheLastAndSaysWhatItCouldNot) {
    const testing::TemporaryFolder folder;
    const auto store = open_sessions(folder.path());
    Metrics metrics;
    {
        SessionSaver saver(*store, metrics);
        for (int i = 0; i < 50; ++i) saver.save(head("s-a", i), std::to_string(i));
        saver.flush();
        EXPECT_TRUE(saver.has("s-a"));
        // A file stands where its folder should be.
        std::ofstream(folder.path() + "/s-b") << "x";
        saver.save(head("s-b"), "y");
        saver.flush();
        EXPECT_FALSE(saver.has("s-b"));
        EXPECT_EQ(metrics.save_failures, 1);
        saver.save(head("s-c"), "z");
    }
    EXPECT_EQ(store->part("s-a", "state"), "49");
    EXPECT_EQ(store->part("s-c", "state"), "z");
}

/// Down until told otherwise.
class MovedStore : public SessionStore {
 public:
    [[nodiscard]] bool is_shared() const override { return false; }
    std::vector<SessionHead> list(std::vector<std::string>&) override { return {}; }
    void save(const SessionHead& head, const std::string& state) override {
        ++n_asked;
        if (is_down) throw Error(ErrorCode::kUnwritable, "nobody is there");
        const std::scoped_lock guard(mutex_);
        states_[head.id] = state;
    }
    std::string part(const std::string& id, std::string_view) override {
        const std::scoped_lock guard(mutex_);
        return states_[id];
    }
    void remove(const std::string&) override {}
    void look_up(const std::string&) override {}
    [[nodiscard]] std::optional<SessionHead> newer(const std::string&) override { return {}; }

    std::atomic<bool> is_down = true;
    std::atomic<int> n_asked = 0;

 private:
    std::mutex mutex_;
    std::map<std::string, std::string> states_;
};

void save_twenty(SessionSaver& saver) {
    for (int i = 0; i < 20; ++i) saver.save(head(cat("s-", i)), "a");
    saver.flush();
}

template <typename F>
bool comes_true(const F& holds) {
    for (int i = 0; i < 1000 && !holds(); ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return holds();
}

TEST(SessionSaver, NobodyWaitsForAStoreThatIsDownAndItIsCaughtUp) {
    MovedStore store;
    Metrics metrics;
    SessionSaver saver(store, metrics, std::chrono::milliseconds(20));
    save_twenty(saver);
    EXPECT_TRUE(metrics.is_store_down);
    EXPECT_EQ(metrics.sessions_unwritten, 20);
    EXPECT_TRUE(saver.take_lost().empty());  // of no use yet
    saver.save(head("s-19"), "b");
    store.is_down = false;
    ASSERT_TRUE(comes_true([&] { return saver.has("s-19"); }));
    saver.flush();
    EXPECT_FALSE(metrics.is_store_down);
    EXPECT_EQ(store.part("s-19", ""), "b");
    // It kept the last ones; the others are for their owner to give again.
    const std::set<std::string> lost = saver.take_lost();
    EXPECT_EQ(std::ssize(lost), 12);
    EXPECT_TRUE(lost.contains("s-0"));
    EXPECT_TRUE(saver.take_lost().empty());
    for (const std::string& id : lost) saver.save(head(id), "a");
    saver.flush();
    EXPECT_EQ(metrics.sessions_unwritten, 0);
}

TEST(SessionSaver, AStoreThatIsDownIsAskedNowAndThen) {
    MovedStore store;
    Metrics metrics;
    {
        SessionSaver saver(store, metrics, std::chrono::hours(1));
        save_twenty(saver);
        EXPECT_EQ(store.n_asked, 2);
        store.is_down = false;
    }
    EXPECT_EQ(store.part("s-19", ""), "a");  // the end does not wait an hour
}

TEST(SharedSessions, AStaleServerIsRefusedAndReadsWhatIsThere) {
    const auto content = std::make_shared<testing::BucketContent>();
    const auto one = sessions_in(std::make_unique<testing::SharedObjects>(content));
    const auto two = sessions_in(std::make_unique<testing::SharedObjects>(content));
    one->save(head("s-a", 3), "first");
    EXPECT_FALSE(two->newer("s-a"));
    two->look_up("s-a");
    const auto found = two->newer("s-a");
    ASSERT_TRUE(found);
    EXPECT_EQ(found->tokens.size(), 3U);
    EXPECT_FALSE(two->newer("s-a"));  // it is told once
    EXPECT_EQ(two->part("s-a", "state"), "first");
    EXPECT_EQ(two->part("s-a", "messages"), head("s-a").messages);
    two->save(head("s-a", 4), "second");
    EXPECT_THROW(one->save(head("s-a", 5), "mine"), ObjectConflict);
    EXPECT_EQ(two->part("s-a", "state"), "second");
    one->look_up("s-a");
    ASSERT_EQ(one->newer("s-a")->tokens.size(), 4U);
    EXPECT_EQ(one->part("s-a", "state"), "second");
    one->save(head("s-a", 6), "third");
    two->look_up("s-a");
    EXPECT_EQ(two->newer("s-a")->tokens.size(), 6U);
    // Nothing is left of what was replaced.
    EXPECT_EQ(content->objects.size(), 5U);
    one->remove("s-a");
    EXPECT_TRUE(content->objects.empty());
}

TEST(SharedSessions, OneThatIsThereIsNotWrittenByWhoNeverSawIt) {
    const auto content = std::make_shared<testing::BucketContent>();
    const auto one = sessions_in(std::make_unique<testing::SharedObjects>(content));
    const auto two = sessions_in(std::make_unique<testing::SharedObjects>(content));
    one->save(head("s-a"), "first");
    EXPECT_THROW(two->save(head("s-a"), "mine"), ObjectConflict);
    EXPECT_EQ(one->part("s-a", "state"), "first");
}

TEST(SharedSessions, DamageIsFoundOut) {
    const auto content = std::make_shared<testing::BucketContent>();
    const auto store = sessions_in(std::make_unique<testing::SharedObjects>(content));
    store->save(head("s-a"), "first");
    for (auto& [name, object] : content->objects) {
        const std::string whole = object.content;
        object.content[whole.size() / 2] ^= 1;
        const auto other = sessions_in(std::make_unique<testing::SharedObjects>(content));
        const bool is_manifest = name.ends_with("manifest.json");
        if (is_manifest) {
            // Not everything in it has a check sum; nothing of it may end the program.
            std::vector<std::string> refused;
            static_cast<void>(other->list(refused));
        } else {
            const std::string part = name.substr(4, name.find('-', 4) - 4);
            EXPECT_EQ(code_of([&] { (void)other->part("s-a", part); }), ErrorCode::kCorrupt);
        }
        object.content = whole;
    }
}

}  // namespace
}  // namespace palimpsest
