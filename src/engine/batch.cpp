#include "engine/batch.h"

#include <exception>

namespace palimpsest {

bool Batch::step(std::span<Sequence* const> sequences, int64_t limit) {
    std::vector<Turn> turns;
    for (Sequence* s : sequences) turns.push_back({s, limit});
    return step(turns);
}

bool Batch::step(std::span<const Turn> turns) {
    std::vector<Sequence*> going;
    std::vector<Lane> lanes;
    for (const auto& [s, limit] : turns) {
        if (!s->wants()) continue;
        try {
            lanes.push_back(s->next_lane(limit));
        } catch (const Error&) {
            continue;  // it has failed, and says so; the others go on
        }
        going.push_back(s);
    }
    if (going.empty()) return false;
    try {
        const std::span<const LaneResult> results = evaluator_.step(lanes);
        for (size_t i = 0; i < going.size(); ++i) going[i]->took(results[i]);
    } catch (const std::exception& e) {
        // The graph itself failed: no memory knows where it is.
        const auto* known = dynamic_cast<const Error*>(&e);
        const Error failure = known != nullptr
                                  ? *known
                                  : Error(ErrorCode::kExhausted, cat("a step failed: ", e.what()));
        for (Sequence* s : going) s->took({.failure = failure, .is_broken = true});
        throw;
    }
    return true;
}

void Batch::run(std::span<Sequence* const> sequences) {
    std::vector<bool> goes(sequences.size());
    for (size_t i = 0; i < sequences.size(); ++i) goes[i] = sequences[i]->wants();
    while (step(sequences)) {
    }
    for (size_t i = 0; i < sequences.size(); ++i) {
        const auto& failure = sequences[i]->failure();
        if (!goes[i] || !failure) continue;
        throw Error(failure->code(), cat("sequence ", i, ": ", failure->what()));
    }
}

}  // namespace palimpsest
