#include "memory/cache/memories.h"

#include <array>
#include <string>

#include "core/error.h"

namespace palimpsest {

namespace {

std::unique_ptr<ContextMemory> make_kv(const Backend& backend, const MemoryShape& shape,
                                       const KvCacheOptions& options) {
    return std::make_unique<KvCache>(backend, shape, options);
}

constexpr std::array<MemoryKind, 1> kKinds = {{
    {"kv", make_kv, "keys and values: all of them, or what a policy keeps within a budget"},
}};

}  // namespace

std::span<const MemoryKind> memory_kinds() { return kKinds; }

ggml_type entry_type(std::string_view name) {
    for (const ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q8_0}) {
        if (name == ggml_type_name(type)) return type;
    }
    throw Error(ErrorCode::kInvalidArgument,
                cat("no entries are of type '", name, "'; there are f32, f16 and q8_0"));
}

std::unique_ptr<ContextMemory> make_memory(std::string_view name, const Backend& backend,
                                           const MemoryShape& shape,
                                           const KvCacheOptions& options) {
    std::string names;
    for (const MemoryKind& kind : kKinds) {
        if (kind.name == name) return kind.make(backend, shape, options);
        names += cat(names.empty() ? "" : ", ", kind.name);
    }
    throw Error(ErrorCode::kNotFound, cat("no memory is called '", name, "'; there are: ", names));
}

}  // namespace palimpsest
