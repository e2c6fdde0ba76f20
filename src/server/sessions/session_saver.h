#pragma once

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
/// its turn, the last.
class SessionSaver {
 public:
    /// Both must outlive it.
    SessionSaver(SessionStore& store, Metrics& metrics);
    /// Writes what is left.
    ~SessionSaver();
    SessionSaver(const SessionSaver&) = delete;
    SessionSaver& operator=(const SessionSaver&) = delete;

    /// Waits while too much is to be written.
    void save(SessionHead head, std::string state);
    void remove(std::string id);
    /// Is it written as it was last to be?
    [[nodiscard]] bool has(const std::string& id);
    /// Of those to be written, the ones that another server had written meanwhile; each is told
    /// once.
    [[nodiscard]] std::set<std::string> take_conflicts();
    /// Waits until everything is written.
    void flush();

 private:
    struct Task {
        SessionHead head;
        std::string state;
        bool is_removal = false;
    };
    void work();

    SessionStore& store_;
    Metrics& metrics_;
    std::mutex mutex_;
    std::condition_variable wake_, done_;
    std::deque<Task> tasks_;
    std::set<std::string> unwritten_;  // waiting, or failed
    std::set<std::string> conflicts_;
    bool is_busy_ = false, is_over_ = false;
    std::thread thread_;
};

}  // namespace palimpsest
