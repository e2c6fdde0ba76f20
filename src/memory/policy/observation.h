#pragma once

#include <cstdint>
#include <iosfwd>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "memory/attention/entry_view.h"
#include "memory/kernels/scoring_kernel.h"
#include "memory/policy/entry_notes.h"
#include "memory/policy/observer.h"

namespace palimpsest {

// Observers of the queries that pass, for policies and allocators to name.

/// The last so many rotated queries of every layer.
class QueryWindow final : public Observer {
 public:
    QueryWindow(const MemoryShape& shape, int64_t n_queries);

    [[nodiscard]] std::unique_ptr<Observer> clone() const override;
    void begin(const Step& step, int64_t seen) override;
    void observe(Graph& g, const AttentionInputs& in, EntrySource& source,
                 AttentionScratch& scratch) override;
    void shift(int64_t positions) override;
    void reset() override;
    [[nodiscard]] size_t bytes() const override;
    void save(std::ostream& out) const override;
    void load(std::istream& in) override;

    /// Softmax weight that the noted queries of the group pay to each entry of a KV head, summed or
    /// the largest of all. Every query sees the entries up to its own position.
    [[nodiscard]] std::vector<float> attention(const LayerView& view, int64_t head,
                                               Reduce reduce) const;
    /// Queries noted: at most n_queries.
    [[nodiscard]] int64_t count() const;

 private:
    class CopyOp;
    [[nodiscard]] float* row(int64_t layer, int64_t slot, int64_t head);
    [[nodiscard]] const float* row(int64_t layer, int64_t slot, int64_t head) const;

    MemoryShape shape_;
    int64_t n_queries_;
    std::vector<float> queries_;      // [layer][n_queries][n_head][d_head], used as a ring
    std::vector<int32_t> positions_;  // [n_queries], in the input
    int64_t noted_ = 0;               // queries ever noted; the next goes to noted_ % n_queries
    int64_t before_ = 0;              // noted_ before the running step
    int64_t n_step_ = 0;              // queries of the running step; 0: it is not noted
    int64_t planned_at_ = -1;         // positions seen when the running step was planned
};

/// Attention that every held entry has received from all queries so far.
class ColumnMass final : public Observer {
 public:
    /// `owner` is who it notes for, as messages say.
    ColumnMass(const MemoryShape& shape, std::string_view owner);

    [[nodiscard]] std::unique_ptr<Observer> clone() const override;
    void begin(const Step& step, int64_t seen) override;
    void observe(Graph& g, const AttentionInputs& in, EntrySource& source,
                 AttentionScratch& scratch) override;
    void keep(int64_t layer, int64_t head, std::span<const int32_t> kept) override {
        mass_.keep(layer, head, kept);
    }
    void held(int64_t layer, std::span<const std::span<const int32_t>> heads) override {
        mass_.held(layer, heads);
    }
    void reset() override { mass_.clear(); }
    [[nodiscard]] size_t bytes() const override { return mass_.bytes(); }
    [[nodiscard]] size_t bytes_per_entry() const override { return sizeof(float); }
    void save(std::ostream& out) const override { mass_.save(out); }
    void load(std::istream& in) override { mass_.load(in); }

    /// Sum over queries and the group's heads, for every entry.
    [[nodiscard]] std::span<const float> of(int64_t layer, int64_t head) const {
        return mass_.of(layer, head);
    }

 private:
    class MassOp;
    MemoryShape shape_;
    EntryNotes mass_;
    bool is_noted_ = true;  // the running step
};

/// Mean and covariance of the queries of every layer and head before rotation.
class QueryMoments final : public Observer {
 public:
    /// Queries at the first `n_skip` positions are left out.
    QueryMoments(const MemoryShape& shape, int64_t n_skip);

    [[nodiscard]] std::unique_ptr<Observer> clone() const override;
    void begin(const Step& step, int64_t seen) override;
    void observe(Graph& g, const AttentionInputs& in, EntrySource& source,
                 AttentionScratch& scratch) override;
    void reset() override;
    [[nodiscard]] size_t bytes() const override;
    void save(std::ostream& out) const override;
    void load(std::istream& in) override;

    [[nodiscard]] int64_t count() const { return count_; }
    [[nodiscard]] std::span<const float> mean(int64_t layer, int64_t head) const;
    /// Sum of products of deviations, [d_head][d_head]: count() times the biased covariance.
    [[nodiscard]] std::span<const float> deviations(int64_t layer, int64_t head) const;

 private:
    class AddOp;
    [[nodiscard]] float* at(int64_t layer, int64_t head);
    void add(float* moments, int64_t n_before, std::span<const float> queries, int64_t n,
             float* scratch) const;

    MemoryShape shape_;
    int64_t n_skip_;
    int64_t count_ = 0;          // queries noted, the running step's included
    int64_t before_ = 0;         // without the running step's
    int64_t first_ = 0;          // first query of the running step that counts
    int64_t planned_at_ = -1;    // positions seen when the running step was planned
    std::vector<float> values_;  // [layer][n_head][d_head + d_head * d_head]
};

}  // namespace palimpsest
