#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "memory/eviction.h"

namespace palimpsest {

/// Flags of every command that can bound what a model remembers.
struct MemoryFlags {
    std::string budget, policy, allocator, residue = "none", positions = "auto";
    std::vector<std::string> settings;  // NAME=VALUE
    int64_t n_sink = -1, n_recent = -1, interval = 128;
    bool one_shot = false;

    /// Was any of them given?
    [[nodiscard]] bool is_bounded() const { return !budget.empty() || !policy.empty(); }
};

void add_memory_flags(CLI::App& command, MemoryFlags& flags);

/// Throws kInvalidArgument for flags that contradict each other, kNotFound for unknown names.
EvictionOptions eviction_options(const MemoryFlags& flags);

}  // namespace palimpsest
