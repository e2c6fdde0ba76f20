#pragma once

#include <cstdint>
#include <iosfwd>
#include <span>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "memory/attention/attention.h"
#include "memory/attention/entry_view.h"
#include "memory/context_memory.h"

namespace palimpsest {

/// A policy's notes on a head, after a state was loaded. Throws kCorrupt unless there are as many
/// as its entries need: notes are found by counting entries.
inline void check_notes(std::string_view policy, int64_t n_noted, int64_t n_needed) {
    if (n_noted == n_needed) return;
    throw Error(ErrorCode::kCorrupt, cat("the saved memory does not fit: '", policy, "' noted ",
                                         n_noted, " numbers of a head that needs ", n_needed));
}

/// Says how much an entry matters. Knows nothing of budgets, sinks or protected spans. One object a
/// sequence.
///
/// Called in this order: for each step begin(), and while the graph is built observe() once a
/// layer; after the graph has run, and only when something must go, score(), then keep() for heads
/// that lose entries, then held(). From score() on, several layers at once by several threads; the
/// rest by one.
class EvictionPolicy {
 public:
    EvictionPolicy() = default;
    virtual ~EvictionPolicy() = default;
    EvictionPolicy(const EvictionPolicy&) = delete;
    EvictionPolicy& operator=(const EvictionPolicy&) = delete;

    /// First and last positions it never lets go, whatever the caller protects.
    [[nodiscard]] virtual int64_t n_sink() const { return 0; }
    [[nodiscard]] virtual int64_t n_recent() const { return 0; }

    /// Entries are kept or dropped together in runs of so many positions.
    [[nodiscard]] virtual int64_t run_length() const { return 1; }

    /// Does it score by repeating what was read (ContextMemory::rehearses)?
    [[nodiscard]] virtual bool rehearses() const { return false; }

    /// Host side, before the graph runs: `seen` positions were read before this step.
    virtual void begin(const Step& /*step*/, int64_t /*seen*/) {}

    /// Graph side, after the step's entries were stored and attended to: notes what scoring will
    /// need of it. The nodes added must be kept. `source` and `scratch` outlive the graph.
    virtual void observe(Graph& /*g*/, const AttentionInputs& /*in*/, EntrySource& /*source*/,
                         AttentionScratch& /*scratch*/) {}

    /// Importance of every entry; higher is kept. Not-a-number counts as -infinity.
    [[nodiscard]] virtual Scores score(const LayerView& held) const = 0;

    /// Attention that the last query pays to every entry, mean over the heads that share it; empty:
    /// nobody noted it (last_query.h).
    [[nodiscard]] virtual Scores last_attention(const LayerView& /*held*/) const { return {}; }

    /// Of a head's entries only those at `kept` (ascending) are left.
    virtual void keep(int64_t /*layer*/, int64_t /*head*/, std::span<const int32_t> /*kept*/) {}
    /// After a layer was cut, or a state was loaded: the positions that each of its heads holds,
    /// ascending. Throws kCorrupt if what was loaded is of other entries.
    virtual void held(int64_t /*layer*/, std::span<const std::span<const int32_t>> /*heads*/) {}

    /// The RoPE positions of the most recent entries and of what comes next changed by so much.
    virtual void shift(int64_t /*positions*/) {}

    virtual void reset() {}
    /// Memory it owns, and what it needs beside that for each entry held by one KV head.
    [[nodiscard]] virtual size_t bytes() const { return 0; }
    [[nodiscard]] virtual size_t bytes_per_entry() const { return 0; }

    virtual void save(std::ostream& /*out*/) const {}
    virtual void load(std::istream& /*in*/) {}
};

}  // namespace palimpsest
