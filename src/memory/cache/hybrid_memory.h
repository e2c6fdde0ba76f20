#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "memory/context_memory.h"

namespace palimpsest {

/// The layers of a model that attend, as a model of their own; their numbers are counted anew.
[[nodiscard]] MemoryShape attention_part(const MemoryShape& shape);
/// And those that are recurrent.
[[nodiscard]] MemoryShape recurrent_part(const MemoryShape& shape);

/// For models with layers of both kinds: one memory holds what attends, another the recurrent
/// states, and both answer for the sequence together.
///
/// Each sees only its own layers, counted from 0, and every step. Positions and rehearsals are
/// those of the memory that attends; bytes are of both. As nothing of a rehearsal may stay, a
/// memory of states either puts them back after one, or refuses it in plan().
class HybridMemory final : public ContextMemory {
 public:
    /// `attention` was made for attention_part(shape), `recurrence` for recurrent_part(shape).
    /// Throws kUnsupported if a part is empty: one memory will do.
    HybridMemory(const MemoryShape& shape, std::unique_ptr<ContextMemory> attention,
                 std::unique_ptr<ContextMemory> recurrence);

    std::vector<Segment> admit(std::vector<Segment> prompt) override;
    uint64_t plan(const Step& step) override;
    Tensor attend(Graph& g, const AttentionInputs& in) override;
    Tensor recur(Graph& g, const RecurrenceInputs& in) override;
    Tensor with_before(Graph& g, int64_t layer, Tensor channels) override;
    void settle(const Step& step) override;
    void reset() override;
    [[nodiscard]] std::span<const int32_t> positions(int64_t layer, int64_t head) const override;
    [[nodiscard]] std::span<const float> states(int64_t layer) const override;
    [[nodiscard]] MemoryUsage usage() const override;
    [[nodiscard]] MemoryReport report() const override;
    [[nodiscard]] int64_t next_position() const override;
    [[nodiscard]] Rehearses rehearses() const override;
    [[nodiscard]] Rehearsed rehearsed() const override;
    [[nodiscard]] int64_t room() const override;
    void save(std::ostream& out) const override;
    void load(std::istream& in) override;

 private:
    [[nodiscard]] int64_t place(int64_t layer, bool attends) const;
    void load_parts(std::istream& in);

    std::vector<bool> attends_;   // [layer]
    std::vector<int64_t> place_;  // [layer]: its number among those of its kind
    std::unique_ptr<ContextMemory> attention_, recurrence_;
    std::pair<uint64_t, uint64_t> keys_ = {};  // of the last plan
    uint64_t key_ = 0;                         // another one for every change of these
};

}  // namespace palimpsest
