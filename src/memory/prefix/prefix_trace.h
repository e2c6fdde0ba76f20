#pragma once

#include <algorithm>
#include <functional>
#include <span>
#include <vector>

#include "memory/attention/attention.h"
#include "memory/attention/entry_store.h"
#include "memory/context_memory.h"
#include "memory/prefix/prefix_document.h"

namespace palimpsest {

/// Entries of consecutive positions, all of them kept: what a model without bounds would hold.
class EntryLine final : public EntrySource {
 public:
    /// Positions count from `first_position`.
    EntryLine(const MemoryShape& shape, ggml_type type, int64_t n_slots, int64_t first_position);

    void store(int64_t layer, int64_t head, int64_t i, const float* k,
               const float* v) noexcept override {
        store_.write(layer, head, n_ + i, k, v);
    }
    [[nodiscard]] EntryRows rows(int64_t layer, int64_t head) const noexcept override {
        return store_.rows(layer, head);
    }
    [[nodiscard]] SlotRange visible(int64_t layer, int64_t head, int64_t i) const noexcept override;

    /// Reads a head's first n entries, as rows of bytes: keys, then values.
    void read_head(std::istream& in, int64_t layer, int64_t head, int64_t n);

    /// Moves entries kept[i] of a head to slot i.
    void gather(int64_t layer, int64_t head, std::span<const int32_t> kept) noexcept {
        store_.gather(layer, head, kept);
    }
    /// Slots of a head are filled anew, the first with what was in order[0], and so on.
    void arrange(int64_t layer, int64_t head, std::span<const int32_t> order);
    /// Only the first n slots are left; the next position stays what it is.
    void shrink(int64_t n) {
        first_position_ += n_ - n;
        n_ = n;
    }

    void append(int64_t n) { n_ += n; }
    void clear() { n_ = 0; }
    [[nodiscard]] int64_t size() const { return n_; }
    [[nodiscard]] int64_t room() const { return store_.n_slots() - n_; }
    [[nodiscard]] int64_t first_position() const { return first_position_; }
    [[nodiscard]] int64_t next_position() const { return first_position_ + n_; }
    [[nodiscard]] size_t bytes() const;

 private:
    MemoryShape shape_;
    EntryStore store_;
    int64_t first_position_, n_ = 0;
};

/// Reads a prefix and keeps all of it, for traces to look at.
class ExactPrefix final : public ContextMemory {
 public:
    /// `backend` must outlive it. Positions count from `first_position`, which may be below 0: only
    /// differences matter to attention.
    ExactPrefix(const Backend& backend, const MemoryShape& shape, ggml_type entries,
                int64_t n_positions, int64_t first_position = 0);

    uint64_t plan(const Step& step) override;
    Tensor attend(Graph& g, const AttentionInputs& in) override;
    void settle(const Step& step) override { line_.append(step.n); }
    void reset() override {
        line_.clear();
        n_apart_.clear();
    }
    [[nodiscard]] MemoryUsage usage() const override;
    [[nodiscard]] MemoryReport report() const override { return {}; }
    [[nodiscard]] int64_t room() const override { return line_.room(); }
    void save(std::ostream& out) const override;
    void load(std::istream& in) override;

    [[nodiscard]] const MemoryShape& shape() const { return shape_; }
    [[nodiscard]] int64_t size() const { return line_.size(); }
    [[nodiscard]] int64_t first_position() const { return line_.first_position(); }
    [[nodiscard]] int64_t next_position() const override { return line_.next_position(); }
    [[nodiscard]] EntryRows rows(int64_t layer, int64_t head) const {
        return line_.rows(layer, head);
    }
    /// Keeps some entries, as many of every head: kept[layer * n_head_kv + head], ascending. For
    /// comparisons with eviction; only where no layer has a window.
    void keep(std::span<const std::vector<int32_t>> kept);
    /// Moves some of every head to the front: followers attend to them and to the rest apart.
    /// Chosen as in keep(), but heads may differ in number, from entries in the order of their
    /// positions; none where a layer has a window.
    void set_apart(std::span<const std::vector<int32_t>> chosen);
    /// Was anything set apart?
    [[nodiscard]] bool is_split() const { return !n_apart_.empty(); }
    [[nodiscard]] bool is_split_in(int64_t layer) const {
        return is_split() && shape_.window(layer) == 0;
    }
    /// Then slots [0, n_apart()) of that head were; none in layers with a window.
    [[nodiscard]] int64_t n_apart(int64_t layer, int64_t head) const {
        return n_apart_[static_cast<size_t>(layer * shape_.n_head_kv + head)];
    }
    [[nodiscard]] int64_t most_apart() const { return *std::ranges::max_element(n_apart_); }

 private:
    template <class Work>
    void for_heads(const Work& work) const {
        for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
            for (int64_t h = 0; h < shape_.n_head_kv; ++h) work(line_.rows(layer, h));
        }
    }

    MemoryShape shape_;
    EntryLine line_;
    AttentionScratch scratch_;
    std::vector<int64_t> n_apart_;  // [layer][KV head]; empty: nothing was set apart
};

/// What the queries of one step saw in one layer, position after position: [n][n_head][d_head],
/// logarithms [n][n_head].
struct TracedLayer {
    std::vector<float> keys;          // as they will be looked up
    std::vector<float> outputs, lse;  // over the prefix alone, but for what was set apart in it
    std::vector<float> own, own_lse;  // over the trace, and what was set apart
    // Only where something was: over the trace alone, and queries as entries meet them.
    std::vector<float> alone, alone_lse, queries;
};

/// Follows an exact prefix: attention over both, split at their border and joined exactly, and both
/// parts told. Memory of one sequence; the prefix is only read and may be shared.
class TraceMemory final : public ContextMemory {
 public:
    /// Step by step, after it: position of its first in the trace, their number, all layers.
    using OnStep =
        std::function<void(int64_t first, int64_t n, std::span<const TracedLayer> layers)>;

    /// `backend` and `prefix` must outlive it. `on_step` may be empty.
    TraceMemory(const Backend& backend, const ExactPrefix& prefix, int64_t n_positions,
                PrefixKeys keys, OnStep on_step);

    uint64_t plan(const Step& step) override;
    Tensor attend(Graph& g, const AttentionInputs& in) override;
    void settle(const Step& step) override;
    void reset() override { own_.clear(); }
    [[nodiscard]] MemoryUsage usage() const override;
    [[nodiscard]] MemoryReport report() const override { return {}; }
    [[nodiscard]] int64_t room() const override { return own_.room(); }
    [[nodiscard]] int64_t next_position() const override { return own_.next_position(); }

    [[nodiscard]] size_t bytes() const;

 private:
    class FrozenEntries;
    class SplitOp;

    MemoryShape shape_;
    const ExactPrefix& prefix_;
    PrefixKeys keys_;
    OnStep on_step_;
    EntryLine own_;
    std::shared_ptr<FrozenEntries> frozen_, apart_;
    AttentionScratch scratch_, prefix_scratch_, apart_scratch_;
    std::vector<TracedLayer> layers_;
};

}  // namespace palimpsest
