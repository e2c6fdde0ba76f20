#include "engine/evaluator.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <new>

#include "core/finite.h"

namespace palimpsest {

namespace {

constexpr const char* kNoMemory = "out of memory";

/// Nodes of a pass: about 30 a block, and what every lane's memory adds.
size_t nodes_for(const ModelConfig& cfg, std::span<const Lane> lanes) {
    size_t n_runs = 0;
    for (const Lane& lane : lanes) n_runs += lane.runs.size();
    return 272 + static_cast<size_t>(cfg.n_layer) * (48 + 48 * lanes.size()) + 8 * lanes.size() +
           4 * n_runs;
}

void check_lane(const Lane& lane, const ModelConfig& cfg) {
    int64_t n = 0;
    for (const Run& run : lane.runs) {
        check(run.tokens.empty() != run.rows.empty(), "a run has tokens or rows");
        for (const TokenId t : run.tokens) {
            require(t >= 0 && t < cfg.n_vocab, "token ", t, " is outside the vocabulary of ",
                    cfg.n_vocab);
        }
        n += run.size(cfg.n_embd);
    }
    check(n == lane.step.n, "a lane's runs are as long as its step");
}

/// What a memory throws, as it goes into a result.
std::optional<Error> failure_of(const std::function<void()>& work) {
    try {
        work();
        return std::nullopt;
    } catch (const Error& e) {
        return e;
    } catch (const std::bad_alloc&) {
        return Error(ErrorCode::kExhausted, kNoMemory);
    }
}

/// As many columns of t, from `first` on, as `to` has room for.
void read(Tensor t, size_t first, std::span<float> to) {
    if (to.empty()) return;
    ggml_backend_tensor_get(t, to.data(), first * t->nb[1], to.size_bytes());
}

/// Loading has seen that the weights are numbers: what comes out must be, too.
void check_numbers(const Lane& lane, std::span<const float> logits, int64_t n_vocab) {
    if (is_finite(logits)) return;
    const auto bad = std::ranges::find_if_not(logits, [](float x) { return std::isfinite(x); });
    const int64_t row = (bad - logits.begin()) / n_vocab;
    throw Error(ErrorCode::kCorrupt,
                cat("what the model computes at position ",
                    lane.step.first_pos + lane.step.n - lane.n_logits + row,
                    " is not a number, or infinite: its weights are damaged, or too large for ",
                    "this way of reading them (see --reading and --entries)"));
}

}  // namespace

void Evaluator::plan(std::span<const Lane> lanes) {
    results_.assign(lanes.size(), {});
    groups_.clear();
    for (size_t i = 0; i < lanes.size(); ++i) {
        const Lane& lane = lanes[i];
        uint64_t key = 0;
        results_[i].failure = failure_of([&] {
            check_lane(lane, model_.config());
            key = lane.memory->plan(lane.step);
        });
        if (!results_[i].failure) add_to_group(lane, i, key);
    }
}

/// A lane's products must not depend on the lanes beside it: those that read many rows, and those
/// of which many are wanted, are computed apart from the others.
void Evaluator::add_to_group(const Lane& lane, size_t place, uint64_t key) {
    const ManyRows many = many_rows(lane, model_.products().many_rows());
    auto group = std::ranges::find(groups_, many, &Group::many);
    if (group == groups_.end()) group = groups_.insert(group, Group{.many = many});
    group->places.push_back(place);
    std::vector<uint64_t>& topology = group->topology;
    topology.insert(topology.end(), {lane.memory->serial(), key, static_cast<uint64_t>(lane.step.n),
                                     static_cast<uint64_t>(lane.n_logits),
                                     static_cast<uint64_t>(lane.n_hidden), lane.runs.size()});
    for (const Run& run : lane.runs) {
        topology.push_back(2 * static_cast<uint64_t>(run.size(model_.config().n_embd)) +
                           (run.rows.empty() ? 0U : 1U));
    }
}

void Evaluator::build(std::vector<Lane> lanes) {
    graph_.reset();
    lanes_ = std::move(lanes);
    graph_ = std::make_unique<Graph>(nodes_for(model_.config(), lanes_));
    outputs_ = model_.forward(*graph_, lanes_, least_rows_);
    if (outputs_.logits != nullptr) graph_->output(outputs_.logits);
    if (outputs_.hidden != nullptr) graph_->output(outputs_.hidden);
}

void Evaluator::run(std::span<const Lane> all, const Group& group) {
    std::vector<Lane> lanes;
    lanes.reserve(group.places.size());
    for (const size_t i : group.places) lanes.push_back(all[i]);
    const bool again =
        graph_ != nullptr && group.topology == topology_ && graph_->is_current(backend_);
    topology_.clear();  // a graph that fails is not run again
    if (again) {
        std::ranges::move(lanes, lanes_.begin());
    } else {
        build(std::move(lanes));
    }
    graph_->compute(backend_);
    topology_ = group.topology;
}

/// Room for what every lane that goes on wants, lane after lane.
void Evaluator::make_room(std::span<const Lane> lanes) {
    const auto n_vocab = static_cast<size_t>(model_.config().n_vocab);
    const auto n_embd = static_cast<size_t>(model_.config().n_embd);
    size_t n_logits = 0;
    size_t n_hidden = 0;
    for (size_t i = 0; i < lanes.size(); ++i) {
        if (results_[i].failure) continue;
        n_logits += static_cast<size_t>(lanes[i].n_logits);
        n_hidden += static_cast<size_t>(lanes[i].n_hidden);
    }
    logits_.resize(n_logits * n_vocab);
    hidden_.resize(n_hidden * n_embd);
    std::span<float> logits(logits_);
    std::span<float> hidden(hidden_);
    rooms_.assign(lanes.size(), {});
    for (size_t i = 0; i < lanes.size(); ++i) {
        if (results_[i].failure) continue;
        Room& room = rooms_[i];
        room.logits = logits.first(static_cast<size_t>(lanes[i].n_logits) * n_vocab);
        room.hidden = hidden.first(static_cast<size_t>(lanes[i].n_hidden) * n_embd);
        logits = logits.subspan(room.logits.size());
        hidden = hidden.subspan(room.hidden.size());
    }
}

/// What the group that ran last gave.
void Evaluator::share_out(std::span<const size_t> places) {
    size_t logits = 0;
    size_t hidden = 0;
    for (size_t i = 0; i < places.size(); ++i) {
        const Room& room = rooms_[places[i]];
        read(outputs_.logits, logits, room.logits);
        read(outputs_.hidden, hidden, room.hidden);
        logits += static_cast<size_t>(lanes_[i].n_logits);
        hidden += static_cast<size_t>(lanes_[i].n_hidden);
        results_[places[i]].logits = room.logits;
        results_[places[i]].hidden = room.hidden;
    }
}

void Evaluator::settle(std::span<const size_t> places) {
    for (size_t i = 0; i < places.size(); ++i) {
        LaneResult& result = results_[places[i]];
        result.failure = failure_of([&] {
            check_numbers(lanes_[i], result.logits, model_.config().n_vocab);
            lanes_[i].memory->settle(lanes_[i].step);
        });
        result.is_broken = result.failure.has_value();
    }
}

void Evaluator::run_groups(std::span<const Lane> lanes) {
    make_room(lanes);
    for (const Group& group : groups_) {
        run(lanes, group);
        share_out(group.places);
        settle(group.places);
    }
}

std::span<const LaneResult> Evaluator::step(std::span<const Lane> lanes) {
    try {
        plan(lanes);
        run_groups(lanes);
    } catch (const std::bad_alloc&) {
        throw Error(ErrorCode::kExhausted, kNoMemory);
    }
    return results_;
}

std::span<const float> Evaluator::evaluate(std::span<const Lane> lanes) {
    const auto refuse = [&] {
        for (const LaneResult& r : results_) {
            if (r.failure) throw Error(*r.failure);
        }
    };
    plan(lanes);
    refuse();
    run_groups(lanes);
    refuse();
    return logits_;
}

}  // namespace palimpsest
