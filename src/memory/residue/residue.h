#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iosfwd>
#include <span>
#include <string_view>
#include <vector>

#include "memory/attention/entry_store.h"
#include "memory/attention/entry_view.h"
#include "memory/attention/joined_past.h"

namespace palimpsest {

/// Entries of one head that are about to go, and those that stay.
struct Eviction {
    int64_t layer = 0, head = 0;
    HeadView held;
    std::span<const int32_t> kept, gone;  // slots, ascending
    EntryStore* store = nullptr;          // values of kept slots may be rewritten
    float* scratch = nullptr;             // for the kernels
};

/// A part of what a residue holds for one head, for research: values in rows, shape slowest first.
struct NamedState {
    std::string_view name;
    std::vector<int64_t> shape;
    std::vector<float> values;
};

/// What is not finite would spoil all that it is added to, for good.
[[nodiscard]] inline bool all_finite(std::span<const float> x) {
    return std::ranges::all_of(x, [](float v) { return std::isfinite(v); });
}

/// What evicted entries leave behind. One object a sequence. Any residue goes with any policy.
class Residue : public JoinedPast {
 public:
    /// Host side, once for each head that loses entries; several heads at once by several threads.
    virtual void absorb(const Eviction& eviction) = 0;

    /// Default: what went says nothing more.
    Tensor join(Graph& /*g*/, const AttentionInputs& /*in*/, Tensor attended,
                AttentionScratch& /*scratch*/) override {
        return attended;
    }

    /// Are positions that went still readable through it?
    [[nodiscard]] virtual bool is_readable() const { return false; }

    [[nodiscard]] virtual std::vector<NamedState> state(int64_t /*layer*/, int64_t /*head*/) const {
        return {};
    }

    virtual void reset() {}
    [[nodiscard]] virtual size_t bytes() const { return 0; }
    [[nodiscard]] virtual size_t bytes_per_entry() const { return 0; }
    virtual void save(std::ostream& /*out*/) const {}
    virtual void load(std::istream& /*in*/) {}
};

}  // namespace palimpsest
