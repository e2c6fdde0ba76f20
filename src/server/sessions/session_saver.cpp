#include "server/sessions/session_saver.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "server/sessions/object_store.h"

namespace palimpsest {

namespace {

constexpr size_t kMostWaiting = 8;
constexpr size_t kMostParked = 8;  // each holds a state, which may take megabytes
/// One may be the conversation's own fault.
constexpr int kFailuresOfAStore = 2;

}  // namespace

SessionSaver::SessionSaver(SessionStore& store, Metrics& metrics, std::chrono::milliseconds retry)
    : store_(store), metrics_(metrics), retry_(retry), thread_([this] { work(); }) {}

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
    done_.wait(lock, [this] { return tasks_.size() < kMostWaiting || is_down_; });
    unwritten_.insert(head.id);
    add({.head = std::move(head), .state = std::move(state)});
}

void SessionSaver::remove(std::string id) {
    const std::scoped_lock guard(mutex_);
    Task task;
    task.head.id = std::move(id);
    task.is_removal = true;
    add(std::move(task));
}

/// In place of what was to be done with the same conversation.
void SessionSaver::add(Task task) {
    for (std::deque<Task>* tasks : {&tasks_, &parked_}) {
        std::erase_if(*tasks, [&](const Task& t) { return t.head.id == task.head.id; });
    }
    lost_.erase(task.head.id);
    if (is_down_) {
        park(std::move(task));
    } else {
        tasks_.push_back(std::move(task));
    }
    note_state();
    wake_.notify_all();
}

/// The oldest go when there are too many.
void SessionSaver::park(Task task) {
    if (parked_.empty()) retry_at_ = std::chrono::steady_clock::now() + retry_;
    parked_.push_back(std::move(task));
    if (parked_.size() <= kMostParked) return;
    if (!parked_.front().is_removal) lost_.insert(parked_.front().head.id);
    parked_.pop_front();
}

void SessionSaver::note_state() {
    metrics_.sessions_unwritten = std::ssize(unwritten_);
    metrics_.is_store_down = is_down_;
}

bool SessionSaver::has(const std::string& id) {
    const std::scoped_lock guard(mutex_);
    return !unwritten_.contains(id);
}

std::set<std::string> SessionSaver::take_conflicts() {
    const std::scoped_lock guard(mutex_);
    return std::exchange(conflicts_, {});
}

std::set<std::string> SessionSaver::take_lost() {
    const std::scoped_lock guard(mutex_);
    return is_down_ ? std::set<std::string>() : std::exchange(lost_, {});
}

void SessionSaver::flush() {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return tasks_.empty() && !is_busy_; });
}

/// A task in front of the queue; false: it is over.
bool SessionSaver::wait_for_task(std::unique_lock<std::mutex>& lock) {
    const auto has_news = [this] { return is_over_ || !tasks_.empty(); };
    while (tasks_.empty()) {
        if (is_over_) {
            if (is_last_try_ || parked_.empty()) return false;
            is_last_try_ = true;
            is_down_ = false;
            tasks_.swap(parked_);
        } else if (parked_.empty()) {
            wake_.wait(lock, has_news);
        } else if (!wake_.wait_until(lock, retry_at_, has_news)) {
            tasks_.push_back(std::move(parked_.front()));
            parked_.pop_front();
        }
    }
    return true;
}

SessionSaver::Outcome SessionSaver::attempt(const Task& task) {
    try {
        if (task.is_removal) {
            store_.remove(task.head.id);
        } else {
            store_.save(task.head, task.state);
            ++metrics_.sessions_saved;
        }
        return Outcome::kDone;
    } catch (const ObjectConflict&) {
        ++metrics_.save_conflicts;
        return Outcome::kConflict;
    } catch (const std::exception&) {  // a full disk, say; the old one is still there
        ++metrics_.save_failures;
        return Outcome::kFailed;
    }
}

void SessionSaver::settle(Task task, Outcome outcome) {
    const std::string id = task.head.id;
    const auto is_of_it = [&id](const Task& t) { return t.head.id == id; };
    const bool comes_again =
        std::ranges::any_of(tasks_, is_of_it) || std::ranges::any_of(parked_, is_of_it);
    if (outcome == Outcome::kFailed) {
        if (!comes_again && !is_over_) park(std::move(task));
        retry_at_ = std::chrono::steady_clock::now() + retry_;
        is_down_ = ++n_failed_in_a_row_ >= kFailuresOfAStore && !is_over_;
        // Those that wait behind it need not fail one by one.
        while (is_down_ && !tasks_.empty()) {
            park(std::move(tasks_.front()));
            tasks_.pop_front();
        }
        return;
    }
    if (outcome == Outcome::kConflict) conflicts_.insert(id);
    if (!comes_again) unwritten_.erase(id);
    n_failed_in_a_row_ = 0;
    if (!std::exchange(is_down_, false)) return;
    while (!parked_.empty()) {
        tasks_.push_back(std::move(parked_.front()));
        parked_.pop_front();
    }
}

void SessionSaver::work() {
    std::unique_lock lock(mutex_);
    while (wait_for_task(lock)) {
        Task task = std::move(tasks_.front());
        tasks_.pop_front();
        is_busy_ = true;
        lock.unlock();
        const Outcome outcome = attempt(task);
        lock.lock();
        settle(std::move(task), outcome);
        note_state();
        is_busy_ = false;
        done_.notify_all();
    }
}

}  // namespace palimpsest
