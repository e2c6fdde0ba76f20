#include "train/objective.h"

#include <array>

#include "core/error.h"

namespace palimpsest {

namespace {

constexpr std::array<ObjectiveKind, 3> kKinds = {{
    {"gate", "gate",
     "the policy `gate`: what repeating a text will need of a token, from its state alone",
     make_gate_objective},
    {"indexer", "indexer", "the policy `indexer`: which tokens what follows will look at",
     make_indexer_objective},
    {"latent", "memory", "the residue `latent`: a state that answers for what was evicted",
     make_latent_objective},
}};

}  // namespace

std::vector<int64_t> evicting_layers(const MemoryShape& shape) {
    std::vector<int64_t> layers;
    for (int64_t i = 0; i < shape.n_layer; ++i) {
        if (shape.window(i) == 0) layers.push_back(i);
    }
    require(!layers.empty(),
            "all layers of this model have a sliding window: nothing in them is evicted, and there "
            "is nothing to train");
    return layers;
}

std::span<const ObjectiveKind> objective_kinds() { return kKinds; }

const ObjectiveKind& find_objective(std::string_view name) {
    std::string names;
    for (const ObjectiveKind& kind : kKinds) {
        if (kind.name == name) return kind;
        names += cat(names.empty() ? "" : ", ", kind.name);
    }
    throw Error(ErrorCode::kNotFound,
                cat("nothing to train is called '", name, "'; known: ", names));
}

}  // namespace palimpsest
