#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iomanip>
#include <numeric>
#include <sstream>

#include "core/error.h"
#include "core/random.h"
#include "train/checkpoint.h"

namespace palimpsest {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kFirstDocuments = 4;  // before the first step; more come while it learns

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

/// A stream of its own for every step and every round through the documents.
Random stream(uint64_t seed, uint64_t kind, int64_t number) {
    Random mixed(seed ^ (kind << 56U) ^ (static_cast<uint64_t>(number) * 0x9e3779b97f4a7c15ULL));
    return Random(mixed.next());
}

std::vector<const Example*> pointers(const auto& examples) {
    std::vector<const Example*> all;
    all.reserve(examples.size());
    for (const Example& e : examples) all.push_back(&e);
    return all;
}

}  // namespace

Trainer::Trainer(Objective& objective, ExampleReader& reader, const Corpus& corpus,
                 const TrainingOptions& options)
    : objective_(objective),
      reader_(reader),
      corpus_(corpus),
      options_(options),
      optimizer_(objective.parameters()) {
    const Schedule& s = options_.schedule;
    require(s.n_steps >= 1 && s.n_warm_up >= 0 && s.n_decay >= 0 &&
                s.n_warm_up + s.n_decay <= s.n_steps,
            s.n_warm_up, " steps of warm-up and ", s.n_decay, " of decay do not fit into ",
            s.n_steps);
    require(std::isfinite(s.rate) && s.rate > 0, "a learning rate of ", s.rate);
    require(options_.n_batch >= 1 && options_.n_block >= 1 && options_.n_pool >= 1 &&
                options_.read_every >= 1 && options_.examine_every >= 1,
            "batch, block, pool and intervals must be 1 or more");
    check(!corpus_.learnt.empty(), "a corpus has something to learn from");
    options_.n_pool = std::min(options_.n_pool, std::ssize(corpus_.learnt));
}

std::string Trainer::settings() const {
    const Schedule& s = options_.schedule;
    std::ostringstream text;
    text << options_.subject << (options_.subject.empty() ? "" : " ") << "steps=" << s.n_steps
         << " warm-up=" << s.n_warm_up << " decay=" << s.n_decay
         << " learning-rate=" << std::setprecision(17) << s.rate << " last-share=" << s.last_share
         << " batch=" << options_.n_batch << " block=" << options_.n_block
         << " pool=" << options_.n_pool << " read-every=" << options_.read_every
         << " seed=" << options_.seed << " windows=" << corpus_.learnt.size()
         << " held-out=" << corpus_.held_out.size() << " texts=" << std::hex << corpus_.fingerprint;
    return text.str();
}

void Trainer::save(const std::string& path) const {
    write_checkpoint(path, objective_.parameters(), optimizer_, settings());
}

void Trainer::load(const std::string& path) {
    check(pool_.empty(), "a training is resumed before it runs");
    read_checkpoint(path, objective_.parameters(), optimizer_, settings());
}

/// Documents that have come into the pool when a step begins. Where all fit, each comes once.
int64_t Trainer::n_due(int64_t step) const {
    const int64_t n = std::min(kFirstDocuments, options_.n_pool) + step / options_.read_every;
    return std::ssize(corpus_.learnt) == options_.n_pool ? std::min(n, options_.n_pool) : n;
}

/// The i-th to come: round after round through all, each round in an order of its own.
const std::vector<TokenId>& Trainer::document(int64_t i) const {
    const int64_t n = std::ssize(corpus_.learnt);
    std::vector<int64_t> order(static_cast<size_t>(n));
    std::iota(order.begin(), order.end(), int64_t{0});
    Random random = stream(options_.seed, 1, i / n);
    random.shuffle(order);
    return corpus_.learnt[static_cast<size_t>(order[static_cast<size_t>(i % n)])];
}

/// Nothing if it was stopped.
std::optional<Example> Trainer::read(const std::vector<TokenId>& tokens) {
    const auto start = Clock::now();
    std::optional<Example> e = reader_.read(tokens, goes_on);
    reading_s_ += seconds_since(start);
    if (e) ++n_read_;
    return e;
}

bool Trainer::read_next() {
    std::optional<Example> e = read(document(n_taken_));
    if (!e) return false;
    ++n_taken_;
    pool_.push_back(std::move(*e));
    if (std::ssize(pool_) > options_.n_pool) pool_.pop_front();
    return true;
}

/// What is held out, and what the pool held after the last step that was done.
bool Trainer::fill_pool() {
    const int64_t due = n_due(optimizer_.n_done);
    n_taken_ = std::max<int64_t>(0, due - options_.n_pool);
    const int64_t total = due - n_taken_ + std::ssize(corpus_.held_out);
    const auto tell = [&](int64_t done) { return !on_reading || on_reading(done, total); };
    int64_t done = 0;
    if (!tell(done)) return false;
    for (const auto& tokens : corpus_.held_out) {
        std::optional<Example> e = read(tokens);
        if (!e) return false;
        held_out_.push_back(std::move(*e));
        if (!tell(++done)) return false;
    }
    while (n_taken_ < due) {
        if (!read_next() || !tell(++done)) return false;
    }
    return true;
}

std::vector<Block> Trainer::draw(int64_t step) const {
    Random random = stream(options_.seed, 2, step);
    std::vector<Block> blocks;
    for (int64_t i = 0; i < options_.n_batch; ++i) {
        const Example& e = pool_[static_cast<size_t>(random.below(std::ssize(pool_)))];
        const int64_t room = e.n - kTrainedSinks;
        const int64_t n = std::min(options_.n_block, room);
        blocks.push_back({.of = &e, .begin = kTrainedSinks + random.below(room - n + 1), .n = n});
    }
    return blocks;
}

/// Nothing if it was stopped before anything was learnt.
std::optional<StepReport> Trainer::step() {
    while (n_taken_ < n_due(optimizer_.n_done)) {
        if (!read_next()) return std::nullopt;
    }
    const auto start = Clock::now();
    const std::vector<Block> blocks = draw(optimizer_.n_done);
    clear_gradients(objective_.parameters());
    StepReport report;
    report.loss = objective_.learn(blocks);
    if (!std::isfinite(report.loss)) {
        throw Error(ErrorCode::kInvalidArgument,
                    cat("the loss of step ", optimizer_.n_done + 1,
                        " is no number; try again with a lower --learning-rate"));
    }
    report.rate = options_.schedule.at(optimizer_.n_done);
    report.gradient_norm = optimizer_.step(objective_.parameters(), report.rate);
    report.step = optimizer_.n_done;
    for (const Block& b : blocks) report.n_positions += b.n;
    report.seconds = seconds_since(start);
    report.n_documents = n_read_;
    report.reading_s = reading_s_;
    return report;
}

bool Trainer::run() {
    if (optimizer_.n_done >= options_.schedule.n_steps) return true;
    if (!fill_pool()) return false;
    if (optimizer_.n_done == 0) objective_.begin(pointers(pool_));
    const int64_t n_steps = options_.schedule.n_steps;
    while (optimizer_.n_done < n_steps) {
        std::optional<StepReport> done = step();
        if (!done) return false;
        StepReport& report = *done;
        const bool is_last = report.step == n_steps;
        if (!held_out_.empty() && (is_last || report.step % options_.examine_every == 0)) {
            report.held_out = objective_.examine(pointers(held_out_));
        }
        if (on_step && !on_step(report) && !is_last) return false;
    }
    return true;
}

}  // namespace palimpsest
