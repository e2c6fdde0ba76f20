#include "memory/cache/memories.h"

#include <array>
#include <string>

#include "core/error.h"

namespace palimpsest {

namespace {

std::unique_ptr<ContextMemory> make_kv(const MemoryInputs& in) {
    require(in.settings.empty(), "memory 'kv' has no settings of its own");
    return std::make_unique<KvCache>(in.backend, in.shape, in.cache);
}

constexpr std::array<MemoryKind, 1> kKinds = {{
    {"kv", "keys and values: all of them, or what a policy keeps within a budget", unlike_layer,
     make_kv},
}};

/// The names of all kinds, or of those that suit a shape.
std::string names_of(const MemoryShape* shape) {
    std::string names;
    for (const MemoryKind& kind : kKinds) {
        if (shape != nullptr && !kind.suits(*shape)) continue;
        names += cat(names.empty() ? "" : ", ", kind.name);
    }
    return names;
}

}  // namespace

std::span<const MemoryKind> memory_kinds() { return kKinds; }

ggml_type entry_type(std::string_view name) {
    for (const ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q8_0}) {
        if (name == ggml_type_name(type)) return type;
    }
    throw Error(ErrorCode::kInvalidArgument,
                cat("no entries are of type '", name, "'; there are f32, f16 and q8_0"));
}

std::unique_ptr<ContextMemory> make_memory(std::string_view name, const MemoryInputs& in) {
    for (const MemoryKind& kind : kKinds) {
        if (kind.name != name) continue;
        const std::string misfit = kind.misfit(in.shape);
        if (misfit.empty()) return kind.make(in);
        const std::string others = names_of(&in.shape);
        throw Error(ErrorCode::kUnsupported,
                    cat("memory '", name, "' does not suit this model: ", misfit,
                        others.empty() ? "; no memory does" : cat("; those that do: ", others)));
    }
    throw Error(ErrorCode::kNotFound,
                cat("no memory is called '", name, "'; there are: ", names_of(nullptr)));
}

std::unique_ptr<ContextMemory> make_memory(std::string_view name, const Backend& backend,
                                           const MemoryShape& shape,
                                           const KvCacheOptions& options) {
    return make_memory(name, {.backend = backend, .shape = shape, .cache = options});
}

}  // namespace palimpsest
