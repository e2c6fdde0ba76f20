#pragma once

#include <cstddef>
#include <cstdint>

#include "memory/attention/entry_view.h"
#include "memory/policy/observer.h"

namespace palimpsest {

/// Says how much an entry matters. Knows nothing of budgets, sinks or protected spans, and notes
/// nothing: what it must know of queries that passed, it names among the observers while it is
/// made. Immutable.
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

    /// Importance of every entry; higher is kept. Not-a-number counts as -infinity. `noted` are the
    /// observers it was made with, or a clone of them. Several layers at once by several threads.
    [[nodiscard]] virtual Scores score(const LayerView& held, const Observers& noted) const = 0;

    /// Memory it owns.
    [[nodiscard]] virtual size_t bytes() const { return 0; }
};

}  // namespace palimpsest
