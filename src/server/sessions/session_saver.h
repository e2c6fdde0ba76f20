#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "server/metrics.h"
#include "server/sessions/session_store.h"

namespace palimpsest {

/// Writes conversations to a store on a thread of its own, in order; of one that comes again before
/// its turn, the last. What could not be written is tried again later, the newest few of them at
/// least; a store that failed twice in a row is left alone until then, so nobody waits for it.
class SessionSaver {
 public:
    /// Both must outlive it. What failed is tried again after `retry`.
    SessionSaver(SessionStore& store, Metrics& metrics,
                 std::chrono::milliseconds retry = std::chrono::seconds(5));
    /// Tries once to write what is left.
    ~SessionSaver();
    SessionSaver(const SessionSaver&) = delete;
    SessionSaver& operator=(const SessionSaver&) = delete;

    /// Waits while too much is to be written, unless the store is down.
    void save(SessionHead head, std::string state);
    void remove(std::string id);
    /// Is it written as it was last to be?
    [[nodiscard]] bool has(const std::string& id);
    /// Of those to be written, the ones that another server had written meanwhile; each is told
    /// once.
    [[nodiscard]] std::set<std::string> take_conflicts();
    /// Once the store is up, those whose turn was given up while it was down, too many having come;
    /// each is told once.
    [[nodiscard]] std::set<std::string> take_lost();
    /// Waits until everything is written, or has failed.
    void flush();

 private:
    struct Task {
        SessionHead head;
        std::string state;
        bool is_removal = false;
    };
    enum class Outcome { kDone, kConflict, kFailed };
    void add(Task task);
    void park(Task task);
    bool wait_for_task(std::unique_lock<std::mutex>& lock);
    [[nodiscard]] Outcome attempt(const Task& task);
    void settle(Task task, Outcome outcome);
    void note_state();
    void work();

    SessionStore& store_;
    Metrics& metrics_;
    std::chrono::milliseconds retry_;
    std::mutex mutex_;
    std::condition_variable wake_, done_;
    std::deque<Task> tasks_;
    std::deque<Task> parked_;          // failed, or came while the store was down
    std::set<std::string> unwritten_;  // waiting, or failed
    std::set<std::string> conflicts_, lost_;
    std::chrono::steady_clock::time_point retry_at_;
    int n_failed_in_a_row_ = 0;
    bool is_down_ = false, is_busy_ = false, is_over_ = false, is_last_try_ = false;
    std::thread thread_;
};

}  // namespace palimpsest
