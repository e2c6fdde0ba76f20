#pragma once

#include <string>
#include <vector>

#include "core/append_file.h"
#include "train/trainer.h"

namespace palimpsest {

/// The course of a training: JSON lines as they come, and a picture of the losses.
class TrainingLog {
 public:
    /// Goes on with the file at `path`, of which only steps up to `n_done` count; those after it
    /// were lost with an interrupted run, and go when a step is added. Throws as AppendFile does: a
    /// training's files are one run's; and kCorrupt if another kind of file is there.
    TrainingLog(const std::string& path, int64_t n_done);

    /// Adds a step. Throws kUnwritable.
    void add(const StepReport& report);

    /// The losses so far as SVG: of what is learnt, smoothed, and of what is held out.
    [[nodiscard]] std::string svg() const;

 private:
    struct Point {
        double step = 0, loss = 0;
    };
    void note(const std::string& line);

    AppendFile file_;
    std::string kept_;  // what the file will have before the next step
    bool is_cut_ = false;
    std::vector<Point> learnt_, held_out_;
};

}  // namespace palimpsest
