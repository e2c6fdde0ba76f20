#include "memory/cache/memories.h"

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "memory/cache/hybrid_memory.h"
#include "memory/recurrent/recurrent_memory.h"

namespace palimpsest {

namespace {

std::unique_ptr<ContextMemory> make_kv(const MemoryInputs& in) {
    require(in.settings.empty() && in.read_out == nullptr,
            "a bank of states (--bank) is for recurrent layers, and this "
            "model has none");
    return std::make_unique<KvCache>(in.backend, in.shape, in.cache);
}

/// None: one state a head.
std::optional<BankOptions> bank_options(const OptionMap& settings) {
    if (settings.empty()) return std::nullopt;
    return read_bank_options(settings);
}

/// A budget in bytes is for all that a sequence holds: what states take is not there for entries.
void leave_room(Budget& budget, size_t states) {
    if (budget.kind != Budget::Kind::kBytes) return;
    const auto taken = static_cast<int64_t>(states);
    require(budget.count > taken, "a budget of ", budget.count,
            " bytes, of which recurrent states take ", taken, "; name a larger one");
    budget.count -= taken;
}

std::unique_ptr<ContextMemory> make_states(const MemoryInputs& in) {
    require(in.cache.eviction.policy == "full", "policy '", in.cache.eviction.policy,
            "' has nothing to evict: no layer of this model attends, and its recurrent states are "
            "of one size however much is read; leave the budget and the policy out");
    require(in.cache.prefix.documents.empty(),
            "a prefix memory needs layers that attend; this model has none");
    return std::make_unique<RecurrentMemory>(in.backend, in.shape, bank_options(in.settings),
                                             in.read_out);
}

std::string unlike_attending_layer(const MemoryShape& shape) {
    const MemoryShape attention = attention_part(shape);
    if (attention.n_layer == 0) return "no layer attends";
    if (attention.n_layer == shape.n_layer) return "all layers attend";
    return unlike_layer(attention);
}

std::unique_ptr<ContextMemory> make_hybrid(const MemoryInputs& in) {
    const MemoryShape attention = attention_part(in.shape);
    const MemoryShape recurrence = recurrent_part(in.shape);
    MemoryInputs kv = {.backend = in.backend, .shape = attention, .cache = in.cache};
    if (in.cache.supplies.output_weights) {
        // Layers that attend are counted anew, and the model knows its own numbers.
        std::vector<int64_t> own;
        for (int64_t i = 0; i < in.shape.n_layer; ++i) {
            if (in.shape.attends(i)) own.push_back(i);
        }
        kv.cache.supplies.output_weights = [own, of = in.cache.supplies.output_weights](int64_t i) {
            return of(own.at(static_cast<size_t>(i)));
        };
    }
    auto states = std::make_unique<RecurrentMemory>(in.backend, recurrence,
                                                    bank_options(in.settings), in.read_out);
    Budget& budget = kv.cache.eviction.budget;
    leave_room(budget, states->usage().bytes);
    auto entries = make_kv(kv);
    if (entries->rehearses() != Rehearses::kNever && budget.kind == Budget::Kind::kBytes) {
        // States are kept as they were while something is rehearsed.
        leave_room(budget, states->usage().bytes);
        entries = make_kv(kv);
    }
    return std::make_unique<HybridMemory>(in.shape, std::move(entries), std::move(states));
}

constexpr std::array<MemoryKind, 3> kKinds = {{
    {"kv", "keys and values: all of them, or what a policy keeps within a budget", unlike_layer,
     make_kv},
    {"states", "recurrent states, of models whose layers are all recurrent", attending_layer,
     make_states},
    {"hybrid", "keys and values of layers that attend, states of those that are recurrent",
     unlike_attending_layer, make_hybrid},
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
