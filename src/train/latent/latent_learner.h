#pragma once

#include <memory>
#include <span>

#include "core/gguf_writer.h"
#include "train/example.h"
#include "train/latent/objective_memory.h"
#include "train/layer_record.h"
#include "train/objective.h"
#include "train/parameters.h"

namespace palimpsest {

/// What is learnt of one form of the latent memory: the same loss, each form its own parameters.
class LatentLearner {
 public:
    LatentLearner() = default;
    virtual ~LatentLearner() = default;
    LatentLearner(const LatentLearner&) = delete;
    LatentLearner& operator=(const LatentLearner&) = delete;

    [[nodiscard]] Parameters& parameters() { return parameters_; }

    /// Before the first step of all: first values that depend on examples.
    virtual void begin(std::span<const Example* const> /*examples*/) {}

    /// Of the i-th layer that evicts; adds `weight` times the gradient, unless that is 0. Several
    /// layers at once by several threads.
    virtual double loss(const LayerRecord& record, const MemoryTarget& target, size_t i,
                        float weight) = 0;

    /// The keys of the sidecar that tell the form and its settings.
    virtual void describe(GgufWriter& to) const = 0;

 private:
    Parameters parameters_;
};

std::unique_ptr<LatentLearner> make_residual_learner(const ObjectiveInputs& in);
std::unique_ptr<LatentLearner> make_softmax_learner(const ObjectiveInputs& in);

}  // namespace palimpsest
