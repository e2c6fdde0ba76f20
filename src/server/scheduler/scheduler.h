#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <thread>

#include "engine/batch.h"
#include "engine/runtime.h"
#include "server/metrics.h"
#include "server/scheduler/sequence_table.h"
#include "server/scheduler/work.h"

namespace palimpsest {

struct SchedulerOptions {
    int64_t step_rows = 512;    // a step takes no more readers once it has so many
    int64_t most_running = 64;  // requests that are read or answered at once
    int64_t most_waiting = 128;
    TableOptions table = {};
};

/// The one thread that runs the model. Every step takes a row of each sequence that writes, and
/// then chunks of those that read, whatever their memories: those with least left to read, and
/// every fourth time the one that came first. So a short prompt passes a long one, and none
/// starves.
class Scheduler {
 public:
    /// All must outlive it; `store` may be nullptr. Nobody else uses the engine meanwhile.
    Scheduler(const Runtime& engine, const SchedulerOptions& options, SessionStore* store,
              Metrics& metrics);
    /// Ends what runs, saved.
    ~Scheduler();
    Scheduler(const Scheduler&) = delete;
    Scheduler& operator=(const Scheduler&) = delete;

    /// From any thread. Throws ApiError 503 if too many wait, or it is draining.
    uint64_t submit(Work work, std::shared_ptr<WorkListener> listener);
    /// From any thread: ends a request within a step, without another word to its listener.
    void cancel(uint64_t id);
    /// From any thread: has something done between two steps.
    void ask(std::function<void(SequenceTable&)> task);
    /// From any thread: takes no more requests.
    void drain();
    /// Runs or waits anything?
    [[nodiscard]] bool is_idle() const;

 private:
    struct Job;
    using JobPtr = std::unique_ptr<Job>;

    void run();
    void take_messages();
    void admit();
    [[nodiscard]] bool start(Job& job);
    void begin_reading(Job& job);
    void step();
    [[nodiscard]] std::vector<Batch::Turn> turns();
    void advance(Job& job);
    void advance_reading(Job& job);
    void begin_writing(Job& job);
    void advance_writing(Job& job);
    [[nodiscard]] std::string report_of(const Job& job, const MemoryReport& report) const;
    void finish(Job& job);
    void fail_all(const ApiError& error);
    void fail(Job& job, const ApiError& error);
    void end(Job& job, bool is_good, const std::string& report);

    const Runtime& engine_;
    SchedulerOptions options_;
    Metrics& metrics_;
    SequenceTable table_;
    Batch batch_;
    std::list<JobPtr> waiting_, running_;
    uint64_t n_steps_ = 0;

    mutable std::mutex mutex_;  // of what follows
    std::condition_variable wake_;
    std::deque<JobPtr> fresh_;
    std::vector<uint64_t> cancelled_;
    std::deque<std::function<void(SequenceTable&)>> tasks_;
    uint64_t next_id_ = 1;
    int64_t n_there_ = 0;  // waiting and running
    int64_t n_waiting_ = 0;
    bool is_draining_ = false, is_over_ = false;
    std::thread thread_;
};

}  // namespace palimpsest
