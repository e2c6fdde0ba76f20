#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace palimpsest {

/// What one way to do without a full prefix came to, on one seed of a generated task.
struct PrefixResult {
    // What was asked: equal questions have equal keys.
    std::string task, model;
    int64_t length = 0, n_traces = 0, n_tests = 0;
    double traced = 1;           // share of intents or rules that traces come from
    bool is_validation = false;  // requests that choices are made by, not the tests
    uint64_t seed = 0, cluster_seed = 0;
    std::string method;
    double share = 0;  // of the full prefix's bytes, to be held; 0: the method has no size

    // What came of it.
    int64_t size = 0;                          // entries, tokens or demonstrations
    int64_t n_prefix = 0;                      // tokens of the full prefix
    uint64_t full_bytes = 0;                   // of its keys and values
    uint64_t held_bytes = 0, moved_bytes = 0;  // moved: for one token, all layers
    int64_t n = 0, n_right = 0, n_same = 0;    // tests; those right; those as the full prefix says
    int64_t n_only_full = 0, n_only_this = 0;  // right in one of both only, for McNemar's test
    int64_t n_traced = 0, n_traced_right = 0;  // tests of a kind that traces have
    double divergence = 0;                     // mean KL over labels, full || this
    double request_s = 0;                      // to the first token of an answer, mean
    double below_floor = 0;                    // share of lookups
    double prefill_s = 0, traces_s = 0, clustering_s = 0;  // of a build, where not kept from before
    double e_out = -1, e_out_worst = -1, e_out_answer = -1;
    std::vector<double> e_out_by_layer = {};
    std::vector<double> e_state_by_layer = {}, e_lse_by_layer = {};  // not in older lines
    std::string reading = {};  // how the model's products are computed; not in older lines
    std::string commit = {}, processor = {};
    int64_t threads = 0;

    [[nodiscard]] std::string key() const;
};

/// One line, without its end.
std::string to_json_line(const PrefixResult& result);

/// All such results in a file's text; lines of other kinds are skipped, and half of a last line,
/// which an interrupted run leaves. `whole_bytes`, if given, gets the length up to the last line
/// that is ended. Throws kCorrupt, with the line, for one that lacks something.
std::vector<PrefixResult> read_prefix_results(std::string_view text, std::string_view name,
                                              size_t* whole_bytes = nullptr);

}  // namespace palimpsest
