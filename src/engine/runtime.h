#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/rehearsal.h"
#include "engine/session.h"
#include "memory/cache/kv_cache.h"
#include "memory/recurrent/bank_read_out.h"
#include "model/load.h"
#include "palimpsest/memory_choice.h"

namespace palimpsest {

/// A memory as somebody chose it, ready to be made.
struct MemoryPlan {
    std::string_view kind = {};                        // of memory, one of memory_kinds()
    KvCacheOptions options = {};                       // complete
    OptionMap settings = {};                           // of the kind's own
    std::shared_ptr<const BankReadOut> read_out = {};  // a trained bank of states
    std::vector<std::string> notes = {};               // what a user is to be told
};

/// A model that runs on a backend: the one place where memories are put together for it, and
/// sessions made. Owns neither model nor backend, which must outlive it and what it makes; jobs
/// that run at once have one each, over one model. Not thread-safe.
class Runtime {
 public:
    /// `n_chunk`: positions read in one step.
    Runtime(const LoadedModel& loaded, Backend& backend, int64_t n_chunk = 512);

    [[nodiscard]] const LoadedModel& loaded() const { return loaded_; }
    [[nodiscard]] const ModelConfig& config() const { return loaded_.config(); }
    [[nodiscard]] const Model& model() const { return loaded_.model(); }
    [[nodiscard]] Backend& backend() const { return backend_; }
    [[nodiscard]] const MemoryShape& shape() const { return shape_; }
    [[nodiscard]] int64_t n_chunk() const { return n_chunk_; }

    /// What a choice comes to: its trained weights and prefixes are loaded, defaults chosen. Throws
    /// as choose_eviction(), load_sidecar() and read_prefixes_for() do, and kInvalidArgument for a
    /// gate without an exact prefix.
    [[nodiscard]] MemoryPlan plan(const MemoryChoice& choice) const;
    /// The same with the prefixes that it names, read before.
    [[nodiscard]] MemoryPlan plan(const MemoryChoice& choice, PrefixDocuments prefixes) const;

    /// `options` with what only the engine knows: the chunk, output projections, and, where no
    /// context is named, all that the model was trained for behind the prefixes.
    [[nodiscard]] KvCacheOptions complete(KvCacheOptions options) const;

    /// The memory that was planned, of the first kind that suits the model's layers.
    [[nodiscard]] std::unique_ptr<ContextMemory> make_memory(const MemoryPlan& plan) const;

    /// A key-value cache of the completed options, for those who need one. Throws as KvCache does.
    [[nodiscard]] std::unique_ptr<KvCache> make_cache(KvCacheOptions options = {}) const;

    /// A sequence over any memory, for a Batch.
    [[nodiscard]] std::unique_ptr<Sequence> make_sequence(
        std::unique_ptr<ContextMemory> memory) const;

    /// A session over any memory; it can ask for a repetition where the model has words.
    [[nodiscard]] std::unique_ptr<Session> make_session(
        std::unique_ptr<ContextMemory> memory) const;

 private:
    [[nodiscard]] SequenceOptions sequence_options() const;

    const LoadedModel& loaded_;
    Backend& backend_;
    int64_t n_chunk_;
    MemoryShape shape_;
    RehearsalTexts rehearsal_;
};

/// The prefix memories that a choice names, made for that model.
PrefixUse prefix_use(const MemoryChoice& choice, PrefixDocuments documents);

}  // namespace palimpsest
