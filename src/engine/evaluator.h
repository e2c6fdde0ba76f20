#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/error.h"
#include "model/model.h"

namespace palimpsest {

/// What became of one lane in a step.
struct LaneResult {
    std::span<const float> logits = {};  // the rows that were wanted, n_vocab values each
    std::span<const float> hidden = {};  // and of hidden states, n_embd values each
    std::optional<Error> failure = {};   // what its tokens or memory refused it for, or failed with
    bool is_broken = false;              // a failure that left the memory good for reset() only
};

/// Runs steps of lanes, in one graph all those whose products are of one kind: of many rows, or of
/// few. Keeps the last graph and runs it again when the next step has the same topology, which
/// decoding has. Not thread-safe.
class Evaluator {
 public:
    /// Both must outlive the evaluator. Products of a few rows may round otherwise than products of
    /// one: with `least_rows` 2 every step has so many, and a lane's results do not depend on what
    /// else is in the step.
    Evaluator(const Model& model, Backend& backend, int64_t least_rows = 1)
        : model_(model), backend_(backend), least_rows_(least_rows) {}

    /// One step of every lane. A lane whose tokens or memory do not allow it is left out, and its
    /// result says why; the others go on. Results last until the next call. Throws kExhausted or
    /// kInternal if the graph itself fails: all memories are then good for reset() only.
    std::span<const LaneResult> step(std::span<const Lane> lanes);

    /// The same for all lanes or none: throws what a lane would be refused for, and then nothing
    /// has happened. Returns the wanted rows of logits, lane after lane; valid until the next call.
    std::span<const float> evaluate(std::span<const Lane> lanes);

 private:
    /// Lanes that go into one graph.
    struct Group {
        ManyRows many = {};
        std::vector<size_t> places = {};
        std::vector<uint64_t> topology = {};
    };
    /// Where a lane's results go.
    struct Room {
        std::span<float> logits = {}, hidden = {};
    };

    /// Plans what can be, and sorts it into groups.
    void plan(std::span<const Lane> lanes);
    void add_to_group(const Lane& lane, size_t place, uint64_t key);
    void make_room(std::span<const Lane> lanes);
    void run_groups(std::span<const Lane> lanes);
    void run(std::span<const Lane> all, const Group& group);
    void build(std::vector<Lane> lanes);
    void share_out(std::span<const size_t> places);
    void settle(std::span<const size_t> places);

    const Model& model_;
    Backend& backend_;
    int64_t least_rows_;
    std::vector<Lane> lanes_;  // those of the graph; its inputs read them
    std::vector<uint64_t> topology_;
    std::vector<Group> groups_;
    std::vector<Room> rooms_;
    std::unique_ptr<Graph> graph_;
    ModelOutputs outputs_;
    std::vector<float> logits_, hidden_;
    std::vector<LaneResult> results_;
};

}  // namespace palimpsest
