#include "server/sessions/session_saver.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "server/sessions/object_store.h"

namespace palimpsest {

namespace {

constexpr size_t kMostWaiting = 8;

}  // namespace

SessionSaver::SessionSaver(SessionStore& store, Metrics& metrics)
    : store_(store), metrics_(metrics), thread_([this] { work(); }) {}

SessionSaver::~SessionSaver() {
    {
        const std::scoped_lock guard(mutex_);
        is_over_ = true;
    }
    wake_.notify_all();
    thread_.join();
}

void SessionSaver::save(SessionHead head, std::string state) {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return tasks_.size() < kMostWaiting; });
    std::erase_if(tasks_, [&](const Task& t) { return t.head.id == head.id; });
    unwritten_.insert(head.id);
    tasks_.push_back({.head = std::move(head), .state = std::move(state)});
    wake_.notify_all();
}

void SessionSaver::remove(std::string id) {
    const std::scoped_lock guard(mutex_);
    std::erase_if(tasks_, [&](const Task& t) { return t.head.id == id; });
    Task task;
    task.head.id = std::move(id);
    task.is_removal = true;
    tasks_.push_back(std::move(task));
    wake_.notify_all();
}

bool SessionSaver::has(const std::string& id) {
    const std::scoped_lock guard(mutex_);
    return !unwritten_.contains(id);
}

std::set<std::string> SessionSaver::take_conflicts() {
    const std::scoped_lock guard(mutex_);
    return std::exchange(conflicts_, {});
}

void SessionSaver::flush() {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return tasks_.empty() && !is_busy_; });
}

void SessionSaver::work() {
    std::unique_lock lock(mutex_);
    while (true) {
        wake_.wait(lock, [this] { return is_over_ || !tasks_.empty(); });
        if (tasks_.empty()) return;
        const Task task = std::move(tasks_.front());
        tasks_.pop_front();
        is_busy_ = true;
        lock.unlock();
        bool is_done = true;
        bool is_conflict = false;
        try {
            if (task.is_removal) {
                store_.remove(task.head.id);
            } else {
                store_.save(task.head, task.state);
                ++metrics_.sessions_saved;
            }
        } catch (const ObjectConflict&) {
            ++metrics_.save_conflicts;
            is_conflict = true;
        } catch (const std::exception&) {  // a full disk, say; the old one is still there
            ++metrics_.save_failures;
            is_done = false;
        }
        lock.lock();
        const bool comes_again =
            std::ranges::any_of(tasks_, [&](const Task& t) { return t.head.id == task.head.id; });
        if (is_conflict) conflicts_.insert(task.head.id);
        if (is_done && !comes_again) unwritten_.erase(task.head.id);
        is_busy_ = false;
        done_.notify_all();
    }
}

}  // namespace palimpsest
