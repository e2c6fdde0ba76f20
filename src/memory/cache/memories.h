#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "memory/cache/kv_cache.h"
#include "memory/context_memory.h"

namespace palimpsest {

/// One kind of memory that a user can name.
struct MemoryKind {
    std::string_view name;
    std::unique_ptr<ContextMemory> (*make)(const Backend&, const MemoryShape&,
                                           const KvCacheOptions&);
    std::string_view summary;
};

/// All kinds: what the command line, the tests and the benches offer.
[[nodiscard]] std::span<const MemoryKind> memory_kinds();

/// "f32", "f16" or "q8_0" as a type of entries. Throws kInvalidArgument for another name.
ggml_type entry_type(std::string_view name);

/// Throws kNotFound, listing the names, for an unknown one.
std::unique_ptr<ContextMemory> make_memory(std::string_view name, const Backend& backend,
                                           const MemoryShape& shape, const KvCacheOptions& options);

}  // namespace palimpsest
