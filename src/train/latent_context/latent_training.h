#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace palimpsest {

/// What a stage learns, and from what.
struct LatentStage {
    std::string kind;       // one of latent_stage_kinds()
    int64_t n_steps = 0;    // optimiser steps
    int64_t n_windows = 1;  // of the encoder, that a sample has at most: each has 1 to so many
};

/// A line a kind of stage: rates of adapter and tags, encoder and decoder; 0: it does not learn.
struct LatentStageKind {
    const char* name;
    const char* summary;
    double adapter_rate, encoder_rate, decoder_rate;
    std::array<double, 4> shares;  // of tasks: repeating, going on, facts, chunks to expand
};
[[nodiscard]] const std::vector<LatentStageKind>& latent_stage_kinds();

/// A training of latent context ("End-to-End Context Compression at Scale", arXiv:2606.09659,
/// section 4, scaled down): encoder and decoder start from one model.
struct LatentTrainingOptions {
    std::string model;                   // GGUF file
    std::vector<std::string> documents;  // texts
    std::string out;                     // folder of encoder.gguf, adapter.gguf, decoder.gguf
    std::string start;                   // additions.gguf of another training; empty: the model
    std::vector<LatentStage> stages;
    int64_t ratio = 4;
    int64_t n_source = 128;  // tokens of the encoder's window
    int64_t n_target = 128;  // most tokens that are learnt of a sample
    int64_t n_batch = 12;    // samples a step
    int64_t n_encoder_layers = 8;
    std::string pooling = "concat";
    int64_t encoder_rank = 0, decoder_rank = 0;  // 0: whole matrices
    double rate_scale = 1;                       // of all rates
    int64_t examine_every = 50, n_examined = 48;
    int64_t save_every = 50;
    uint64_t seed = 1;
    int n_threads = 1;
    bool is_f32 = false;  // all in f32, instead of bf16 with f32 masters
    bool resume = false;
    std::string type = "q8_0";  // of the models' matrices in files
};

/// One step, or what is held out, as it was learnt or found.
struct LatentStepReport {
    std::string stage;
    int64_t step = 0, n_steps = 0;  // of the whole training
    double loss = 0;
    double right = 0;  // share of tokens
    double rate = 0, seconds = 0;
    int64_t n_source = 0;  // source tokens so far
    struct HeldOut {
        std::string task;
        int64_t n_windows = 1;                  // of its documents
        double loss = 0, right = 0, whole = 0;  // share of tokens; of samples all right
    };
    std::vector<HeldOut> held_out;  // empty: not examined after this step
};

struct LatentTrainingHooks {
    std::function<bool(const LatentStepReport&)> on_step = {};  // false: stop there
    std::function<void(const std::string&)> on_note = {};
};

/// Runs it in the module that is built where LibTorch is (src/train/torch), which is loaded for it
/// alone: no other command waits for so large a library. Returns false if it was stopped; a
/// checkpoint was saved then. Throws kUnsupported if there is no such module or the model is of a
/// family that it has not, kInvalidArgument, and as reading and writing files does.
bool train_latent_context(const LatentTrainingOptions& options, const LatentTrainingHooks& hooks);

}  // namespace palimpsest
