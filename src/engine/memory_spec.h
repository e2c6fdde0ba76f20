#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "memory/eviction/eviction.h"

namespace palimpsest {

/// Names a way to evict in one word: POLICY[/ALLOCATOR][+RESIDUE][:NAME=VALUE[;NAME=VALUE]...],
/// such as "snap-kv/adaptive+merge:window=32". The budget stays open; an allocator that is not
/// named is the policy's own, or the one that `learned` was trained for. Throws kNotFound,
/// suggesting the nearest, for an unknown name, and kInvalidArgument for a setting without '='.
EvictionOptions parse_memory_spec(std::string_view text, const EvictionWeights* learned = nullptr);

/// The same for a list, in which "all" means every policy that evicts, those that need trained
/// weights only if `learned`, which may be nullptr, has them.
std::vector<EvictionOptions> parse_memory_specs(const std::vector<std::string>& texts,
                                                const EvictionWeights* learned);

/// The settings as text, "a=1,b=2", in order of their names.
std::string settings_text(const OptionMap& settings);

}  // namespace palimpsest
