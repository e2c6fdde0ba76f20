#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "model/linear.h"
#include "palimpsest/latent_context.h"
#include "palimpsest/memory_choice.h"
#include "palimpsest/report.h"

namespace palimpsest {

struct SpeedOptions {
    std::string model_path;
    std::vector<int64_t> depths = {0, 2048, 4096, 7168};
    int64_t n_prefill = 512;
    int64_t n_decode = 64;
    int64_t n_repeat = 3;
    int n_threads = 1;
    std::string reading = "auto";
    std::vector<int64_t> prompts = {};  // whole prompts of so many tokens, each read from nothing
    /// Ours. Prefix memories: ours looks them up, everybody else reads and keeps as many tokens.
    MemoryChoice memory = {};
    LatentOptions latent = {};  // with an adapter, ours reads rows of many tokens as latents
    bool with_full = false;     // our unbounded memory beside it
    bool with_peer = false;
    bool with_footprint = true;  // memory and load time, which read everything once more
};

/// Medians over the repeats, tokens per second.
struct SpeedResult {
    std::string phase;  // "prefill", "decode", "prompt": a whole one, of `depth` tokens; "prefix"
    int64_t depth = 0;
    double ours = 0;  // 0 for a prefix, which ours does not read
    double full = 0;  // our unbounded memory; 0 if it was not measured
    double peer = 0;  // the better of the two below; 0 without a peer
    double peer_flash = 0, peer_plain = 0;
    // Every repeat.
    std::vector<double> ours_all = {}, full_all = {}, peer_flash_all = {}, peer_plain_all = {};
};

/// One engine's memory and load time, in a process that did nothing else.
struct FootprintResult {
    double load_s = 0;
    size_t peak_rss_bytes = 0;  // after reading up to the deepest depth
};

struct SpeedReport {
    std::vector<SpeedResult> results;
    FootprintResult ours, peer;  // peer: with the attention that needs less
    MemoryReport memory;         // of ours, after the last measurement
    ReadingFacts reading;        // of ours
    int64_t n_ctx_train = 0;     // tokens past it are beyond what the model was trained for
};

/// Measures prefill and decode at every depth. Ours and the peer (libllama, flash attention on and
/// off) read the same tokens, take turns at every measurement, and alternate who goes first.
/// At depth d: n_decode tokens one by one from position d, then n_prefill tokens at once after
/// them. Behind prefixes, positions count from their end. Whole prompts come last, each from an
/// empty memory. `on_progress` gets lines for people. Throws kInvalidArgument for a depth that does
/// not fit.
SpeedReport measure_speed(const SpeedOptions& options,
                          const std::function<void(const std::string&)>& on_progress);

}  // namespace palimpsest
