#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/gguf_writer.h"
#include "core/graph.h"
#include "memory/context_memory.h"
#include "memory/policy/eviction_weights.h"
#include "train/example.h"
#include "train/indexer/objective_indexer.h"
#include "train/parameters.h"

namespace palimpsest {

/// One number that says how well something was learnt.
struct Measure {
    std::string name;
    double value = 0;
};

/// What is learnt, and from what. One object a training; the trainer owns the loop around it.
class Objective {
 public:
    Objective() = default;
    virtual ~Objective() = default;
    Objective(const Objective&) = delete;
    Objective& operator=(const Objective&) = delete;

    [[nodiscard]] virtual Captured wanted() const = 0;
    [[nodiscard]] virtual Parameters& parameters() = 0;

    /// Before the first step of all: first values that depend on examples.
    virtual void begin(std::span<const Example* const> /*examples*/) {}

    /// Adds to the parameters' gradients those of the mean loss over the blocks, and returns that.
    /// The same for any number of threads.
    virtual double learn(std::span<const Block> blocks) = 0;

    /// Of examples that were not learnt from; "loss" first.
    virtual std::vector<Measure> examine(std::span<const Example* const> held_out) = 0;

    /// What of it a checkpoint must agree in, besides what it is trained on. Empty: nothing.
    [[nodiscard]] virtual std::string settings() const { return ""; }

    /// The keys of the sidecar that its tensors need.
    virtual void describe(GgufWriter& to) const = 0;
};

/// What stands for the answer to a document, whose attention teaches an indexer.
enum class Response {
    kRepetition,    // the document, said again: needs all of it
    kContinuation,  // its own second half
};

/// What an indexer is, and what teaches it.
struct IndexerTrainingOptions {
    int64_t n_head = 0, d_head = 0;  // 0: a quarter of the model's heads, an eighth of their width
    Activation activation = Activation::kRelu;
    bool is_by_head = false;  // an importance for each KV head, not one for all
    int64_t n_recent = 0;     // last positions, which are not ranked and always stay
    Response response = Response::kRepetition;
    IndexerLoss loss = IndexerLoss::kDivergence;
};

struct ObjectiveOptions {
    int64_t n_mid = 128;     // width of a gate's middle
    int64_t n_feature = 24;  // of a latent memory, a head: 2.4 % of 1,024 f16 entries, at any width
    LatentForm latent_form = LatentForm::kSoftmax;
    IndexerTrainingOptions indexer = {};
    uint64_t seed = 1;
};

struct ObjectiveInputs {
    const MemoryShape& shape;
    const Backend& backend;  // must outlive the objective
    ObjectiveOptions options;
    const EvictionWeights* sidecar = nullptr;  // trained before; nullptr: nothing was
};

/// One part of a sidecar that can be trained. Its tensors are `blk.N.<part>_*`, its keys
/// `evict.<part>.*`.
struct ObjectiveKind {
    std::string_view name, part;
    std::string_view summary;
    std::unique_ptr<Objective> (*make)(const ObjectiveInputs& in);
};

/// Layers that evict. Throws kInvalidArgument if there is none: then nothing can be trained.
[[nodiscard]] std::vector<int64_t> evicting_layers(const MemoryShape& shape);

/// All of them: what `palimpsest train` offers.
[[nodiscard]] std::span<const ObjectiveKind> objective_kinds();

/// Throws kNotFound, listing the names, for an unknown one.
[[nodiscard]] const ObjectiveKind& find_objective(std::string_view name);

std::unique_ptr<Objective> make_gate_objective(const ObjectiveInputs& in);
std::unique_ptr<Objective> make_indexer_objective(const ObjectiveInputs& in);
std::unique_ptr<Objective> make_latent_objective(const ObjectiveInputs& in);

}  // namespace palimpsest
