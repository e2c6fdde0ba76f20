#pragma once

#include <memory>
#include <string>
#include <vector>

#include "train/latent/objective_memory.h"
#include "train/objective.h"

namespace palimpsest {

/// Says what is evicted from a document's prompt, by the rule of a policy when it runs.
class Chooser {
 public:
    Chooser() = default;
    virtual ~Chooser() = default;
    Chooser(const Chooser&) = delete;
    Chooser& operator=(const Chooser&) = delete;

    /// What goes of the first `n_prompt` tokens of `e`, if `share` of them goes: of every evicting
    /// layer, in order. The first kTrainedSinks rows stay.
    [[nodiscard]] virtual std::vector<HeadRows> choose(const Example& e, int64_t n_prompt,
                                                       double share) const = 0;

    /// Tells choosers apart, whose weights differ as well.
    [[nodiscard]] virtual std::string settings() const = 0;
};

/// The policy that runs where nobody names one: the sidecar's gate, else its indexer; without a
/// sidecar attention itself, which is what an indexer is trained to foretell. Throws
/// kInvalidArgument for trained parts of a kind that is not trained here.
std::unique_ptr<Chooser> make_chooser(const ObjectiveInputs& in);

/// That policy, attention itself, and the window of the most recent: what one leaves is unlike what
/// another does, and a memory is to serve any.
std::vector<std::unique_ptr<Chooser>> make_choosers(const ObjectiveInputs& in);

}  // namespace palimpsest
