#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace palimpsest {

/// Threads that make requests ready for the model, so that neither the model nor other clients wait
/// for a long text to be tokenized.
class WorkerPool {
 public:
    /// `most`: tasks that may wait.
    WorkerPool(int n_threads, size_t most) : most_(most) {
        for (int i = 0; i < n_threads; ++i) threads_.emplace_back([this] { work(); });
    }
    /// Ends what runs; what waits is not begun.
    ~WorkerPool() {
        {
            const std::scoped_lock guard(mutex_);
            is_over_ = true;
            tasks_.clear();
        }
        wake_.notify_all();
        for (std::thread& t : threads_) t.join();
    }
    WorkerPool(const WorkerPool&) = delete;
    WorkerPool& operator=(const WorkerPool&) = delete;

    /// False: too many wait already.
    [[nodiscard]] bool add(std::function<void()> task) {
        {
            const std::scoped_lock guard(mutex_);
            if (tasks_.size() >= most_) return false;
            tasks_.push_back(std::move(task));
        }
        wake_.notify_one();
        return true;
    }

 private:
    void work() {
        std::unique_lock lock(mutex_);
        while (true) {
            wake_.wait(lock, [this] { return is_over_ || !tasks_.empty(); });
            if (tasks_.empty()) return;
            const std::function<void()> task = std::move(tasks_.front());
            tasks_.pop_front();
            lock.unlock();
            try {
                task();
            } catch (const std::exception&) {
                // There was no memory to say even that; the client's connection ends in time.
            }
            lock.lock();
        }
    }

    size_t most_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::deque<std::function<void()>> tasks_;
    bool is_over_ = false;
    std::vector<std::thread> threads_;
};

}  // namespace palimpsest
