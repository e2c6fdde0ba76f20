#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "memory/eviction/eviction.h"

namespace palimpsest {

/// Flags of every command that can bound what a model remembers.
struct MemoryFlags {
    std::string budget, policy, allocator, residue, positions = "auto";
    std::vector<std::string> settings;  // NAME=VALUE
    int64_t n_sink = -1, n_recent = -1, interval = 128;
    bool one_shot = false;

    /// Was any of them given?
    [[nodiscard]] bool is_bounded() const { return !budget.empty() || !policy.empty(); }
};

void add_memory_flags(CLI::App& command, MemoryFlags& flags);

/// Where the flags name a budget and no policy: what the trained weights in `options.learned` are
/// for, or the usual one; and beside a trained one their latent memory, if no residue is named.
/// Returns what a user is to be told; empty: nothing.
std::string choose_memory(EvictionOptions& options);

/// Policy and residue stay empty if a budget is named and they are not: see choose_memory().
/// Throws kInvalidArgument for flags that contradict each other, kNotFound for unknown names.
EvictionOptions eviction_options(const MemoryFlags& flags);

}  // namespace palimpsest
