#pragma once

#include <string>
#include <vector>

#include "train/trainer.h"

namespace palimpsest {

/// The course of a training: JSON lines as they come, and a picture of the losses.
class TrainingLog {
 public:
    /// Goes on with the file at `path`, of which only steps up to `n_done` count; those after it
    /// were lost with an interrupted run. Throws kNotFound if it cannot be written, kCorrupt if
    /// another kind of file is there.
    TrainingLog(std::string path, int64_t n_done);

    /// Adds a step. Throws kExhausted if it cannot be written.
    void add(const StepReport& report);

    /// The losses so far as SVG: of what is learnt, smoothed, and of what is held out.
    [[nodiscard]] std::string svg() const;

 private:
    struct Point {
        double step = 0, loss = 0;
    };
    void note(const std::string& line);

    std::string path_;
    std::vector<Point> learnt_, held_out_;
};

}  // namespace palimpsest
