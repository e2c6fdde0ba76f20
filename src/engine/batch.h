#pragma once

#include <limits>
#include <span>
#include <vector>

#include "engine/sequence.h"

namespace palimpsest {

/// Runs any mixture of one model's sequences together: those that read, have a prompt repeated or
/// write, whatever their memories. A step of each goes into one graph, so weights are read once for
/// all. What a sequence gets does not depend on who else is there, bit for bit, as far as products
/// of two or more rows do not (docs/decisions/0009): it may join and leave between any two steps.
/// Not thread-safe.
class Batch {
 public:
    /// Both must outlive the batch.
    Batch(const Model& model, Backend& backend) : evaluator_(model, backend, kLeastRows) {}

    /// A sequence, and how many positions it may go on by.
    struct Turn {
        Sequence* sequence = nullptr;
        int64_t limit = std::numeric_limits<int64_t>::max();
    };

    /// One step of every sequence that wants one, each of at most its limit. A sequence
    /// whose memory refuses has failure() afterwards, and stops no other. Returns false if none
    /// wanted any.
    bool step(std::span<const Turn> turns);
    bool step(std::span<Sequence* const> sequences,
              int64_t limit = std::numeric_limits<int64_t>::max());

    /// Steps until no sequence wants more. Then throws the first failure that came up, naming its
    /// sequence by its place.
    void run(std::span<Sequence* const> sequences);

 private:
    static constexpr int64_t kLeastRows = 2;
    Evaluator evaluator_;
};

}  // namespace palimpsest
