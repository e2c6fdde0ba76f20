#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "train/linear/linear_model.h"
#include "train/linear/linear_task.h"

namespace palimpsest {

/// A training of a model with recurrent layers.
struct LinearTrainingOptions {
    std::string model;  // GGUF file to go on from; empty: from nothing, in this shape
    LinearShape shape;
    LinearMixing mixing;
    LinearTaskOptions task;
    bool only_weights = false;  // of states are learnt
    std::string out;            // folder of model.gguf, read-out.gguf and checkpoint; empty: none
    int64_t n_steps = 1000, n_batch = 32;
    double rate = 3e-3, decay = 0.1;
    int64_t examine_every = 500, save_every = 200;
    uint64_t seed = 1;
    int n_threads = 1;
    bool resume = false;
    std::string type = "f32";  // of matrices in the file
};

/// What a set of targets came to.
struct LinearScore {
    std::string set;
    int64_t n = 0, n_right = 0, n_bytes = 0;
    double bits = 0;                       // in all
    int64_t n_sequences = 0, n_whole = 0;  // with such targets; with all of them right
};

struct LinearStepReport {
    int64_t step = 0, n_steps = 0, n_tokens = 0;  // tokens so far
    double loss = 0, rate = 0, seconds = 0;
    std::vector<double> boundary_rates = {};  // of every layer, in this step
    std::vector<LinearScore> scores = {};     // empty: not examined after this step
};

/// What was trained.
struct LinearModelReport {
    int64_t n_parameters = 0, state_bytes = 0;
    std::vector<float> thresholds = {};  // of every layer
};

struct LinearTrainingHooks {
    std::function<bool(const LinearStepReport&)> on_step = {};    // false: stop there
    std::function<void(const LinearModelReport&)> on_model = {};  // at the end
    std::function<void(const std::string&)> on_note = {};
};

/// Runs it in the LibTorch module. Returns false if it was stopped; a checkpoint was saved then,
/// where there is a folder for it. Throws as torch_entry(), make_linear_task() and make_bank() do,
/// kInvalidArgument, and as reading and writing files does.
bool train_linear(const LinearTrainingOptions& options, const LinearTrainingHooks& hooks);

}  // namespace palimpsest
