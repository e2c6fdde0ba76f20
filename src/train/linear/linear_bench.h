#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "train/linear/linear_arms.h"
#include "train/linear/linear_training.h"

namespace palimpsest {

// Arms against each other at equal bytes: every arm at every rate with the first seed, then at its
// best rate with the others. The best is the one whose loss over the last tenth of its steps, all
// on fresh sequences, was least: what it is examined in has no part in that.

struct LinearBenchOptions {
    LinearTrainingOptions training;  // shape, task, steps, batch
    std::vector<std::string> bases = {"gated-delta"};
    std::vector<std::string> arms;
    std::vector<double> rates = {1e-3, 3e-3, 1e-2};
    std::vector<uint64_t> seeds = {1, 2, 3};
    int64_t n_states = 8;
};

/// One model that was trained.
struct LinearResult {
    std::string task, base, arm;
    double rate = 0;
    uint64_t seed = 0;
    int64_t n_steps = 0, n_tokens = 0, n_parameters = 0, state_bytes = 0;
    double loss = 0;  // mean over the last tenth of steps
    double tokens_per_s = 0;
    std::vector<double> boundary_rates;  // of every layer, over the last tenth
    std::vector<float> thresholds;
    std::vector<LinearScore> scores;
    std::string settings;  // of what was the same for all
};

/// Names a run, so that one that is done is not done again.
[[nodiscard]] std::string key_of(const LinearResult& r);
[[nodiscard]] std::string to_json_line(const LinearResult& r);
/// Throws kCorrupt, naming `where`.
[[nodiscard]] LinearResult linear_result(const std::string& line, const std::string& where);

struct LinearBenchHooks {
    std::function<void(const LinearResult& result)> on_result = {};
    /// Says what runs; false: stop.
    std::function<bool(const std::string& run, const LinearStepReport& step)> on_step = {};
};

/// Runs what `done` lacks. Returns false if it was stopped.
bool run_linear_bench(const LinearBenchOptions& options, std::vector<LinearResult> done,
                      const LinearBenchHooks& hooks);

/// For every base a table of arms: their scores at their best rates, mean and standard deviation
/// over seeds.
[[nodiscard]] std::string linear_tables(const std::vector<LinearResult>& results);

}  // namespace palimpsest
