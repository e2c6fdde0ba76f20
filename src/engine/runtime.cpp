#include "engine/runtime.h"

#include <algorithm>

#include "core/error.h"
#include "core/fingerprint.h"
#include "engine/memory_choice.h"
#include "memory/cache/memories.h"
#include "memory/prefix/prefix_file.h"

namespace palimpsest {

Runtime::Runtime(const LoadedModel& loaded, Backend& backend, int64_t n_chunk)
    : loaded_(loaded),
      backend_(backend),
      n_chunk_(n_chunk),
      shape_(loaded.config().memory_shape()) {
    if (const Tokenizer* t = loaded.tokenizer(); t != nullptr) rehearsal_ = rehearsal_texts(*t);
}

PrefixUse prefix_use(const MemoryChoice& choice, PrefixDocuments documents) {
    PrefixUse use = {.documents = std::move(documents), .has_gate = choice.prefix_gate};
    const bool has_exact =
        std::ranges::any_of(use.documents, [](const auto& d) { return d->has_exact(); });
    require(!choice.prefix_gate || has_exact,
            "--prefix-gate needs a prefix memory that was built with --keep-exact");
    return use;
}

namespace {

std::string_view suitable_kind(const MemoryShape& shape) {
    for (const MemoryKind& kind : memory_kinds()) {
        if (kind.suits(shape)) return kind.name;
    }
    return memory_kinds().front().name;  // which says why it does not suit
}

}  // namespace

MemoryPlan Runtime::plan(const MemoryChoice& choice) const {
    // What contradicts itself costs no reading of files.
    static_cast<void>(choose_eviction(choice, nullptr));
    return plan(choice, read_prefixes_for(loaded_.file(), choice.prefixes));
}

MemoryPlan Runtime::plan(const MemoryChoice& choice, PrefixDocuments prefixes) const {
    MemoryPlan plan = {.kind = suitable_kind(shape_)};
    KvCacheOptions& o = plan.options;
    plan.settings = bank_settings(choice);
    if (is_read_out(choice.bank)) {
        plan.read_out = std::make_shared<const BankReadOut>(choice.bank, backend_, shape_,
                                                            model_fingerprint(loaded_.file()));
    }
    static_cast<void>(choose_eviction(choice, nullptr));  // before weights are read
    o.n_ctx = choice.context;
    o.entries = entry_type(choice.entries);
    require(choice.attention == "fused" || choice.attention == "reference", "attention '",
            choice.attention, "'; it can be fused or reference");
    if (choice.attention == "reference") o.path = AttentionPath::kReference;
    o.prefix = prefix_use(choice, std::move(prefixes));
    if (is_bounded(choice)) {
        o.supplies.learned = load_sidecar(choice.sidecar, loaded_, backend_);
        if (o.supplies.learned && !o.supplies.learned->warning().empty()) {
            plan.notes.push_back(o.supplies.learned->warning());
        }
    }
    ChosenEviction chosen = choose_eviction(choice, o.supplies.learned.get());
    if (!chosen.note.empty()) plan.notes.push_back(chosen.note);
    o.eviction = std::move(chosen.eviction);
    o = complete(std::move(o));
    if (const int64_t n = o.n_ctx + o.prefix.n_positions(); n > config().n_ctx_train) {
        plan.notes.insert(
            plan.notes.begin(),
            cat("a context of ", n, " is beyond the ", config().n_ctx_train,
                " positions this model was trained for; answers past that make ", "little sense"));
    }
    return plan;
}

KvCacheOptions Runtime::complete(KvCacheOptions options) const {
    if (options.n_ctx == 0) {
        options.n_ctx = std::max<int64_t>(1, config().n_ctx_train - options.prefix.n_positions());
    }
    options.supplies.n_chunk = n_chunk_;
    options.supplies.output_weights = [&loaded = loaded_](int64_t layer) {
        return loaded.output_projection(layer);
    };
    return options;
}

std::unique_ptr<KvCache> Runtime::make_cache(KvCacheOptions options) const {
    return std::make_unique<KvCache>(backend_, shape_, complete(std::move(options)));
}

std::unique_ptr<ContextMemory> Runtime::make_memory(const MemoryPlan& plan) const {
    return palimpsest::make_memory(plan.kind, {.backend = backend_,
                                               .shape = shape_,
                                               .cache = complete(plan.options),
                                               .settings = plan.settings,
                                               .read_out = plan.read_out});
}

SequenceOptions Runtime::sequence_options() const {
    return {
        .n_chunk = n_chunk_, .rehearsal = rehearsal_, .model = model_fingerprint(loaded_.file())};
}

std::unique_ptr<Sequence> Runtime::make_sequence(std::unique_ptr<ContextMemory> memory) const {
    return std::make_unique<Sequence>(config(), std::move(memory), sequence_options());
}

std::unique_ptr<Session> Runtime::make_session(std::unique_ptr<ContextMemory> memory) const {
    return std::make_unique<Session>(loaded_.model(), backend_, std::move(memory),
                                     sequence_options());
}

}  // namespace palimpsest
