#pragma once

#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "memory/attention/attention.h"
#include "memory/context_memory.h"

namespace palimpsest {

/// Notes on a head, after a state was loaded. Throws kCorrupt unless there are as many as its
/// entries need: notes are found by counting entries.
inline void check_notes(std::string_view owner, int64_t n_noted, int64_t n_needed) {
    if (n_noted == n_needed) return;
    throw Error(ErrorCode::kCorrupt, cat("the saved memory does not fit: '", owner, "' noted ",
                                         n_noted, " numbers of a head that needs ", n_needed));
}

/// Notes something of what passes while the model runs, for those who score entries or share a
/// budget out. Decides nothing. One object a sequence.
///
/// Called in this order: for each step begin(), and while the graph is built observe() once a
/// layer that evicts; when entries went, keep() for heads that lost some, then held(), several
/// layers at once by several threads; the rest by one.
class Observer {
 public:
    Observer() = default;
    virtual ~Observer() = default;
    Observer& operator=(const Observer&) = delete;

    /// The same notes in an object of its own, which may outlive this one.
    [[nodiscard]] virtual std::unique_ptr<Observer> clone() const = 0;

    /// The rehearsals (ContextMemory::rehearses) that it notes. Others see none.
    [[nodiscard]] virtual Rehearsed rehearsed() const { return Rehearsed::kNothing; }

    /// Host side, before the graph runs: `seen` positions were read before this step.
    virtual void begin(const Step& step, int64_t seen) = 0;

    /// Graph side, after the step's entries were stored and attended to: notes what will be needed
    /// of it. The nodes added must be kept. `source` and `scratch` outlive the graph.
    virtual void observe(Graph& g, const AttentionInputs& in, EntrySource& source,
                         AttentionScratch& scratch) = 0;

    /// Of a head's entries only those at `kept` (ascending) are left.
    virtual void keep(int64_t /*layer*/, int64_t /*head*/, std::span<const int32_t> /*kept*/) {}
    /// After a layer was cut, or a state was loaded: the positions that each of its heads holds,
    /// ascending. Throws kCorrupt if what was loaded is of other entries.
    virtual void held(int64_t /*layer*/, std::span<const std::span<const int32_t>> /*heads*/) {}

    /// The RoPE positions of the most recent entries and of what comes next changed by so much.
    virtual void shift(int64_t /*positions*/) {}

    virtual void reset() = 0;
    /// Memory it owns, and what it needs beside that for each entry held by one KV head.
    [[nodiscard]] virtual size_t bytes() const = 0;
    [[nodiscard]] virtual size_t bytes_per_entry() const { return 0; }

    virtual void save(std::ostream& out) const = 0;
    /// Throws kCorrupt for what another observer saved, or one with other settings.
    virtual void load(std::istream& in) = 0;

 protected:
    Observer(const Observer&) = default;
};

/// Where an observer of type T is found among those of its sequence, and among any copy of them.
template <class T>
class Noted {
    friend class Observers;
    explicit Noted(size_t index) : index_(index) {}
    size_t index_;
};

/// All observers of one sequence, in the order in which they were named.
class Observers {
 public:
    /// Policies and allocators name here, while they are made, what they need to be noted.
    template <class T, class... Args>
    Noted<T> add(Args&&... args) {
        all_.push_back(std::make_unique<T>(std::forward<Args>(args)...));
        return Noted<T>(all_.size() - 1);
    }

    /// `at` came from add() of these, or of those these are a clone of.
    template <class T>
    [[nodiscard]] const T& operator[](Noted<T> at) const {
        return static_cast<const T&>(*all_[at.index_]);
    }

    /// The same notes in objects of their own.
    [[nodiscard]] Observers clone() const;

    [[nodiscard]] int64_t count() const { return std::ssize(all_); }
    /// What all together want to be rehearsed. Throws kInvalidArgument if they disagree.
    [[nodiscard]] Rehearsed rehearsed() const;
    /// Those who note this step.
    [[nodiscard]] std::vector<Observer*> of(const Step& step) const;

    // Each of these for all of them, as Observer says.
    void keep(int64_t layer, int64_t head, std::span<const int32_t> kept);
    void held(int64_t layer, std::span<const std::span<const int32_t>> heads);
    void shift(int64_t positions);
    void reset();
    [[nodiscard]] size_t bytes() const;
    [[nodiscard]] size_t bytes_per_entry() const;
    void save(std::ostream& out) const;
    void load(std::istream& in);

 private:
    std::vector<std::unique_ptr<Observer>> all_;
};

}  // namespace palimpsest
