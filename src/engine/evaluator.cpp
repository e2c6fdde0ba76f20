#include "engine/evaluator.h"

#include <algorithm>
#include <functional>
#include <new>

namespace palimpsest {

namespace {

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
        return Error(ErrorCode::kExhausted, "out of memory");
    }
}

/// The first n columns.
void read(Tensor t, int64_t n, std::vector<float>& to) {
    to.resize(t == nullptr ? 0 : static_cast<size_t>(t->ne[0] * n));
    if (!to.empty()) ggml_backend_tensor_get(t, to.data(), 0, to.size() * sizeof(float));
}

}  // namespace

std::vector<size_t> Evaluator::plan(std::span<const Lane> lanes) {
    std::vector<size_t> places;
    results_.assign(lanes.size(), {});
    planned_.clear();
    for (size_t i = 0; i < lanes.size(); ++i) {
        const Lane& lane = lanes[i];
        results_[i].failure = failure_of([&] {
            check_lane(lane, model_.config());
            const uint64_t key = lane.memory->plan(lane.step);
            planned_.insert(planned_.end(),
                            {lane.memory->serial(), key, static_cast<uint64_t>(lane.step.n),
                             static_cast<uint64_t>(lane.n_logits),
                             static_cast<uint64_t>(lane.n_hidden), lane.runs.size()});
            for (const Run& run : lane.runs) {
                planned_.push_back(2 * static_cast<uint64_t>(run.size(model_.config().n_embd)) +
                                   (run.rows.empty() ? 0U : 1U));
            }
        });
        if (!results_[i].failure) places.push_back(i);
    }
    return places;
}

void Evaluator::build(std::vector<Lane> lanes) {
    graph_.reset();
    lanes_ = std::move(lanes);
    graph_ = std::make_unique<Graph>(nodes_for(model_.config(), lanes_));
    outputs_ = model_.forward(*graph_, lanes_, least_rows_);
    if (outputs_.logits != nullptr) graph_->output(outputs_.logits);
    if (outputs_.hidden != nullptr) graph_->output(outputs_.hidden);
}

void Evaluator::run(std::vector<Lane> lanes) {
    std::vector<uint64_t> planned = std::move(planned_);
    const bool again = graph_ != nullptr && planned == topology_ && graph_->is_current(backend_);
    topology_.clear();  // a graph that fails is not run again
    if (again) {
        std::ranges::move(lanes, lanes_.begin());
    } else {
        build(std::move(lanes));
    }
    graph_->compute(backend_);
    topology_ = std::move(planned);
    int64_t n_logits = 0;
    int64_t n_hidden = 0;
    for (const Lane& lane : lanes_) {
        n_logits += lane.n_logits;
        n_hidden += lane.n_hidden;
    }
    read(outputs_.logits, n_logits, logits_);
    read(outputs_.hidden, n_hidden, hidden_);
}

void Evaluator::settle(std::span<const size_t> places) {
    for (size_t i = 0; i < places.size(); ++i) {
        results_[places[i]].failure = failure_of([&] { lanes_[i].memory->settle(lanes_[i].step); });
        results_[places[i]].is_broken = results_[places[i]].failure.has_value();
    }
}

void Evaluator::share_out(std::span<const size_t> places) {
    const auto n_vocab = static_cast<size_t>(model_.config().n_vocab);
    const auto n_embd = static_cast<size_t>(model_.config().n_embd);
    size_t logits = 0;
    size_t hidden = 0;
    for (size_t i = 0; i < places.size(); ++i) {
        LaneResult& result = results_[places[i]];
        const size_t n_logits = static_cast<size_t>(lanes_[i].n_logits) * n_vocab;
        const size_t n_hidden = static_cast<size_t>(lanes_[i].n_hidden) * n_embd;
        result.logits = std::span(logits_).subspan(logits, n_logits);
        result.hidden = std::span(hidden_).subspan(hidden, n_hidden);
        logits += n_logits;
        hidden += n_hidden;
    }
}

std::span<const LaneResult> Evaluator::step(std::span<const Lane> lanes) {
    const std::vector<size_t> places = plan(lanes);
    if (places.empty()) return results_;
    std::vector<Lane> going;
    going.reserve(places.size());
    for (const size_t i : places) going.push_back(lanes[i]);
    run(std::move(going));
    share_out(places);
    settle(places);
    return results_;
}

std::span<const float> Evaluator::evaluate(std::span<const Lane> lanes) {
    const std::vector<size_t> places = plan(lanes);
    for (const LaneResult& r : results_) {
        if (r.failure) throw Error(*r.failure);
    }
    run({lanes.begin(), lanes.end()});
    settle(places);
    for (const LaneResult& r : results_) {
        if (r.failure) throw Error(*r.failure);
    }
    return logits_;
}

}  // namespace palimpsest
