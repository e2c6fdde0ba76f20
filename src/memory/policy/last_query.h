#pragma once

#include <memory>

#include "memory/policy/eviction_policy.h"

namespace palimpsest {

/// The same policy, which notes the last query beside what it notes itself, so that
/// EvictionPolicy::last_attention() answers: for allocators that go by attention.
std::unique_ptr<EvictionPolicy> with_last_query(std::unique_ptr<EvictionPolicy> policy,
                                                const MemoryShape& shape);

}  // namespace palimpsest
