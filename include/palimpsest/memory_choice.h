#pragma once

#include <cstdint>
#include <string>
#include <vector>

#pragma GCC visibility push(default)

namespace palimpsest {

/// What somebody says of how much of the past is held, and which part: in the words of the command
/// line. Nothing said: everything is kept.
struct MemoryChoice {
    /// "1024": entries a head; "64MiB": bytes for everything; "25%": of the prompt. Empty: no
    /// bound.
    std::string budget = {};

    /// POLICY[/ALLOCATOR][+RESIDUE][:NAME=VALUE[;NAME=VALUE]...], such as "gate",
    /// "leverage/adaptive" or "snap-kv+merge:window=32". Empty, with a budget: `gate` (or
    /// `indexer`) where the model has trained weights, else `leverage`.
    std::string policy = {};
    /// The same one by one; over what `policy` says.
    std::string allocator = {}, residue = {};
    std::vector<std::string> settings = {};  // NAME=VALUE

    /// How heads of recurrent layers keep what they read: BANK[:NAME=VALUE[;NAME=VALUE]...], such
    /// as "dla" or "dla:states=12;threshold=0.6". Empty: in one state.
    std::string bank = {};
    std::vector<std::string> bank_settings = {};  // NAME=VALUE, over what `bank` says

    int64_t n_sink = -1;     // first tokens that stay; -1: 4, and 0 with one_shot
    int64_t n_recent = -1;   // last tokens that stay; -1: an eighth of the budget, at most 128
    int64_t interval = 128;  // while writing, evict every so many tokens
    bool one_shot = false;   // evict once, after the prompt: the papers' protocol
    std::string positions = "auto";  // of what stays: auto, original or compact

    std::string sidecar = {};  // a file of trained weights; empty: the one beside the model, if any
    std::vector<std::string> prefixes = {};  // files of prefix memories, which stand before all
    bool prefix_gate = false;  // read the exact prefix where a query is unlike any trace

    int64_t context = 0;          // positions that can be held; 0: what the model was trained for
    std::string entries = "f16";  // how keys and values are stored: f32, f16 or q8_0

    // For research.
    double evicted = -1;    // share to evict of what was read, instead of a budget; -1: none
    int64_t n_writing = 0;  // one_shot: entries a head that may stay while writing; 0: all
    int64_t n_recent_writing = -1;    // and last tokens that stay then; -1: as n_recent
    std::string attention = "fused";  // our kernel, or ggml's operations: "reference"
};

}  // namespace palimpsest

#pragma GCC visibility pop
