#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "memory/cache/kv_cache.h"
#include "memory/context_memory.h"
#include "memory/recurrent/bank_read_out.h"

namespace palimpsest {

/// What a memory is made from. All but the options outlives it.
struct MemoryInputs {
    const Backend& backend;
    const MemoryShape& shape;
    KvCacheOptions cache = {};  // how layers that attend are held
    OptionMap settings = {};  // NAME=VALUE for a kind's own needs; it refuses what it does not know
    std::shared_ptr<const BankReadOut> read_out = {};  // a trained bank, which needs no settings
};

/// One kind of memory that a user can name.
struct MemoryKind {
    std::string_view name;
    std::string_view summary;
    /// Why it cannot serve a model of such layers, as a sentence; empty: it can.
    std::string (*misfit)(const MemoryShape& shape);
    /// Throws kUnsupported for a misfit.
    std::unique_ptr<ContextMemory> (*make)(const MemoryInputs& in);

    [[nodiscard]] bool suits(const MemoryShape& shape) const { return misfit(shape).empty(); }
};

/// All kinds: what the command line, the tests and the benches offer.
[[nodiscard]] std::span<const MemoryKind> memory_kinds();

/// "f32", "f16" or "q8_0" as a type of entries. Throws kInvalidArgument for another name.
ggml_type entry_type(std::string_view name);

/// Throws kNotFound, listing the names, for an unknown one, and kUnsupported, listing those that
/// suit, for one that does not suit the model.
std::unique_ptr<ContextMemory> make_memory(std::string_view name, const MemoryInputs& in);

/// The same for a memory that is told no more than how entries are held.
std::unique_ptr<ContextMemory> make_memory(std::string_view name, const Backend& backend,
                                           const MemoryShape& shape, const KvCacheOptions& options);

}  // namespace palimpsest
