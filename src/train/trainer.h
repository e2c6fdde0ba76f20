#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "train/activations.h"
#include "train/corpus.h"
#include "train/objective.h"
#include "train/optimizer.h"

namespace palimpsest {

struct TrainingOptions {
    Schedule schedule;        // and how many steps there are
    int64_t n_batch = 16;     // blocks a step
    int64_t n_block = 64;     // positions a block; fewer if documents are shorter
    int64_t n_pool = 16;      // documents at hand at once, of which blocks are drawn
    int64_t read_every = 10;  // steps from one new document to the next
    int64_t examine_every = 100;
    uint64_t seed = 1;
    std::string subject = {};  // what is trained, of which model: a checkpoint must agree in it
};

/// What a step came to.
struct StepReport {
    int64_t step = 0;  // done, from 1
    double loss = 0, rate = 0, gradient_norm = 0;
    double seconds = 0;             // of this step, without reading
    int64_t n_positions = 0;        // learnt from in it
    int64_t n_documents = 0;        // read so far in this run
    double reading_s = 0;           // in all, so far in this run
    std::vector<Measure> held_out;  // empty: not examined after this step
};

/// The loop: documents come into a pool, the frozen model's activations with them, and blocks drawn
/// from it are learnt from. Reading a document costs as much as many steps, so each is used often.
/// Everything random follows from the seed and the step's number: a training that was interrupted
/// goes on as if it had not been.
class Trainer {
 public:
    /// All must outlive the trainer. Throws kInvalidArgument for numbers that cannot be.
    Trainer(Objective& objective, ExampleReader& reader, const Corpus& corpus,
            const TrainingOptions& options);

    /// Called while documents are read before the first step; false: stop.
    std::function<bool(int64_t done, int64_t total)> on_reading = {};
    /// Called after every step; false: stop there.
    std::function<bool(const StepReport& report)> on_step = {};
    /// Asked while a document is read, which takes longest; false: stop after the last step.
    std::function<bool()> goes_on = {};

    /// Goes on to the last step. Returns false if it was stopped before. Throws
    /// kInvalidArgument if the loss is no number any more.
    bool run();

    [[nodiscard]] int64_t n_done() const { return optimizer_.n_done; }
    /// Everything a checkpoint of it must agree in.
    [[nodiscard]] std::string settings() const;
    void save(const std::string& path) const;
    /// Before run(). Throws as read_checkpoint() does.
    void load(const std::string& path);

 private:
    [[nodiscard]] int64_t n_due(int64_t step) const;
    [[nodiscard]] const std::vector<TokenId>& document(int64_t i) const;
    [[nodiscard]] std::optional<Example> read(const std::vector<TokenId>& tokens);
    bool fill_pool();
    bool read_next();
    [[nodiscard]] std::vector<Block> draw(int64_t step) const;
    [[nodiscard]] std::optional<StepReport> step();

    Objective& objective_;
    ExampleReader& reader_;
    const Corpus& corpus_;
    TrainingOptions options_;
    Optimizer optimizer_;
    std::deque<Example> pool_;
    std::vector<Example> held_out_;
    int64_t n_taken_ = 0;  // documents that have come into the pool, those before a resume as well
    int64_t n_read_ = 0;
    double reading_s_ = 0;
};

}  // namespace palimpsest
