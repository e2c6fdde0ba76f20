#pragma once

#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "memory/context_memory.h"

namespace palimpsest {

/// A number for every entry that is held, found by counting entries: what observers note of them.
class EntryNotes {
 public:
    /// `owner` is who notes, as messages say.
    EntryNotes(const MemoryShape& shape, std::string_view owner);

    /// For the `n` entries of a step that comes after `seen` positions: `value` each. A step that
    /// is planned twice adds them once. Layers with a window evict nothing, and are left out.
    void grow(int64_t n, int64_t seen, float value);
    void fill(float value);

    // As Observer says.
    void keep(int64_t layer, int64_t head, std::span<const int32_t> kept);
    void held(int64_t layer, std::span<const std::span<const int32_t>> heads) const;
    void clear();
    [[nodiscard]] size_t bytes() const;
    void save(std::ostream& out) const;
    void load(std::istream& in);

    [[nodiscard]] std::vector<float>& of(int64_t layer, int64_t head) {
        return all_[index(layer, head)];
    }
    [[nodiscard]] const std::vector<float>& of(int64_t layer, int64_t head) const {
        return all_[index(layer, head)];
    }

 private:
    [[nodiscard]] size_t index(int64_t layer, int64_t head) const {
        return static_cast<size_t>(layer * shape_.n_head_kv + head);
    }

    MemoryShape shape_;
    std::string_view owner_;
    std::vector<std::vector<float>> all_;  // [layer * KV heads + head][entry]
    std::vector<int64_t> held_;            // entries before the running step
    int64_t planned_at_ = -1;              // positions seen when it was planned
};

}  // namespace palimpsest
