#pragma once

#include <string>
#include <vector>

#include "bench/prefix_task.h"
#include "engine/prefix_build.h"

namespace palimpsest {

/// What one way to do without the full prefix came to, on one seed.
struct PrefixResult {
    std::string method;
    int64_t size = 0;  // entries, tokens or demonstrations
    uint64_t seed = 0, cluster_seed = 0;
    size_t held_bytes = 0, moved_bytes = 0;    // moved: a token, all layers
    int64_t n = 0, n_right = 0, n_same = 0;    // tests; those right; those as the full prefix says
    int64_t n_only_full = 0, n_only_this = 0;  // right in one of both only, for McNemar's test
    double divergence = 0;                     // mean KL over labels, full || this
    double first_answer_s = 0;                 // time of a request, mean
    double build_s = 0, e_out = -1, e_out_answer = -1;
};

struct PrefixDemoOptions {
    std::vector<uint64_t> seeds = {1};
    int64_t n_cluster_seeds = 1;
    PrefixTaskOptions task = {};
    std::vector<int64_t> entries = {128, 256, 512, 1024};
    std::vector<int64_t> tokens = {128, 256, 512, 1024};  // truncated prefixes and eviction
    bool with_group = false;  // keys of a whole group too, at equal bytes
    bool with_wrong = true;   // the control whose demonstrations have shuffled labels
    bool with_kvzip = false;
    std::string work_folder;
};

/// Section 10.2 of the specification: many-shot classification with arbitrary labels under all
/// conditions.
std::vector<PrefixResult> run_prefix_demo(const PrefixRuntime& with,
                                          const PrefixDemoOptions& options,
                                          const std::function<void(const PrefixResult&)>& told);

/// A Markdown table: methods in order, seeds pooled, with intervals.
std::string prefix_table(const std::vector<PrefixResult>& results);

}  // namespace palimpsest
