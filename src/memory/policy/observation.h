#pragma once

#include <cstdint>
#include <iosfwd>
#include <span>
#include <vector>

#include "memory/kernels/scoring_kernel.h"
#include "memory/policy/eviction_policy.h"

namespace palimpsest {

// What policies note of the queries that pass, while the model runs. Each is a part of a policy,
// which forwards its own calls of the same names.

/// The last so many rotated queries of every layer.
class QueryWindow {
 public:
    QueryWindow(const MemoryShape& shape, int64_t n_queries);

    void begin(const Step& step, int64_t seen);
    void observe(Graph& g, const AttentionInputs& in);
    void shift(int64_t positions);
    void reset();
    [[nodiscard]] size_t bytes() const;
    void save(std::ostream& out) const;
    void load(std::istream& in);

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
class ColumnMass {
 public:
    explicit ColumnMass(const MemoryShape& shape);

    void begin(const Step& step, int64_t seen);
    void observe(Graph& g, const AttentionInputs& in, EntrySource& source,
                 AttentionScratch& scratch);
    void keep(int64_t layer, int64_t head, std::span<const int32_t> kept);
    void reset();
    [[nodiscard]] size_t bytes() const;
    void save(std::ostream& out) const;
    void load(std::istream& in);

    /// Sum over queries and the group's heads, for every entry.
    [[nodiscard]] std::span<const float> of(int64_t layer, int64_t head) const;

 private:
    class MassOp;
    MemoryShape shape_;
    bool is_noted_ = true;                  // the running step
    std::vector<std::vector<float>> mass_;  // [layer * KV heads + head][entry]
    std::vector<int64_t> held_;             // entries before the running step
    int64_t planned_at_ = -1;               // positions seen when it was planned
};

/// Mean and covariance of the queries of every layer and head before rotation.
class QueryMoments {
 public:
    /// Queries at the first `n_skip` positions are left out.
    QueryMoments(const MemoryShape& shape, int64_t n_skip);

    void begin(const Step& step, int64_t seen);
    void observe(Graph& g, const AttentionInputs& in, AttentionScratch& scratch);
    void reset();
    [[nodiscard]] size_t bytes() const;
    void save(std::ostream& out) const;
    void load(std::istream& in);

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
