#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/graph.h"
#include "memory/prefix/whitening.h"

namespace palimpsest {

/// What some queries saw of a prefix: records of one codebook, row after row.
struct StateRecords {
    int64_t n_block = 1, d_head = 0;
    std::vector<float> keys = {};     // [n][n_block * d_head]: queries, as they will be looked up
    std::vector<float> outputs = {};  // [n][n_block * d_head]: attention over the prefix alone
    std::vector<float> lse = {};      // [n][n_block]

    [[nodiscard]] int64_t width() const { return n_block * d_head; }
    [[nodiscard]] int64_t size() const { return std::ssize(keys) / width(); }
};

/// How the states of a cluster become one (Eq. 5 of the paper, or plain means for comparison).
enum class Aggregation { kWeighted, kPlain };

/// Running sums of clusters' states: any order and any division of the records give the same entry
/// but for rounding. What pass 2 accumulates.
class StateMoments {
 public:
    StateMoments(int64_t n_cluster, int64_t n_block, int64_t d_head);
    void add(int64_t cluster, std::span<const float> key, std::span<const float> output,
             std::span<const float> lse);

    [[nodiscard]] int64_t count(int64_t cluster) const { return count_[at(cluster)]; }
    /// Mean query of a cluster that is not empty, mean output and log of the mean sum of its
    /// states: [n_block * d_head], the same, [n_block].
    void finish(int64_t cluster, Aggregation how, std::span<float> key, std::span<float> output,
                std::span<float> lse) const;
    /// Root of the mean squared distance of a cluster's queries from their mean.
    [[nodiscard]] float radius(int64_t cluster) const;

 private:
    [[nodiscard]] static size_t at(int64_t i) { return static_cast<size_t>(i); }

    int64_t n_block_, d_head_;
    std::vector<int64_t> count_;     // [cluster]
    std::vector<double> squares_;    // [cluster]: sum of |q|^2
    std::vector<double> keys_;       // [cluster][width]: sum of q
    std::vector<float> peak_;        // [cluster][block]: largest lse
    std::vector<double> weight_;     // [cluster][block]: sum of exp(lse - peak)
    std::vector<double> outputs_;    // [cluster][width]: sum of exp(lse - peak) * output
    std::vector<double> plain_;      // [cluster][width]: sum of outputs
    std::vector<double> plain_lse_;  // [cluster][block]: sum of lse
};

/// Entries of one dictionary, f32.
struct Codebook {
    int64_t n_block = 1, d_head = 0;
    std::vector<float> queries = {};        // [n][width]: mean query
    std::vector<float> outputs = {};        // [n][width]
    std::vector<float> lse = {};            // [n][n_block]
    std::vector<int32_t> count = {};        // [n]: records behind an entry
    std::vector<float> radius = {};         // [n]
    std::vector<Whitening> whitening = {};  // [n_block]; empty: keys are compared as they are

    [[nodiscard]] int64_t width() const { return n_block * d_head; }
    [[nodiscard]] int64_t size() const { return std::ssize(count); }
    /// [n][width]: mean queries of length 1, whitened if keys are. Zeros stay zeros.
    [[nodiscard]] std::vector<float> directions() const;
    /// What a query is multiplied with to be compared with directions [m][width].
    [[nodiscard]] std::vector<float> keys_towards(std::vector<float> directions) const;
    /// [n][width]: the cosine of a query with an entry is query . key / |query|, the query's length
    /// taken after whitening; so the largest product is the nearest entry.
    [[nodiscard]] std::vector<float> lookup_keys() const;
};

struct CodebookOptions {
    int64_t k = 0;
    uint64_t seed = 1;
    bool whiten = false;
    Aggregation aggregation = Aggregation::kWeighted;
    int max_rounds = 20;
    int64_t most_points = 0;  // as in KMeansOptions
};

/// Clusters records by query. At least one record; entries that would be empty are left out.
Codebook build_codebook(const Backend& backend, const StateRecords& records,
                        const CodebookOptions& options);

/// Every record an entry of its own: what clustering is measured against.
Codebook unclustered(const StateRecords& records);

}  // namespace palimpsest
