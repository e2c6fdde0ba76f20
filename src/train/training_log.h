#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "core/append_file.h"
#include "train/trainer.h"

namespace palimpsest {

/// A step's line: "step", "loss", and under "held_out", now and then, what was measured on texts
/// that are not learnt from: "loss" itself, or an object with a "loss" for each kind of text.
[[nodiscard]] nlohmann::json to_json(const StepReport& report);

/// The course of a training: JSON lines as they come, and a picture of the losses.
class TrainingLog {
 public:
    /// Goes on with the file at `path`, of which only steps up to `n_done` count; those after it
    /// were lost with an interrupted run, and go when a step is added. Throws as AppendFile does: a
    /// training's files are one run's; and kCorrupt if another kind of file is there.
    TrainingLog(const std::string& path, int64_t n_done);

    /// Adds a step's line. Throws kUnwritable.
    void add(const nlohmann::json& step);

    /// The losses so far as SVG: of what is learnt, smoothed, and of what is held out.
    [[nodiscard]] std::string svg() const;

 private:
    struct Point {
        double step = 0, loss = 0;
    };
    using Curve = std::vector<Point>;
    void note(const nlohmann::json& step);

    AppendFile file_;
    std::string kept_;  // what the file will have before the next step
    bool is_cut_ = false;
    Curve learnt_;
    std::map<std::string, Curve> held_out_;  // by name
};

}  // namespace palimpsest
