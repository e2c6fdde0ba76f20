#include "train/training_log.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "bench/report/svg_chart.h"
#include "core/error.h"
#include "core/numbers.h"
#include "text/json_text.h"

namespace palimpsest {

namespace {

using nlohmann::json;

constexpr double kWidth = 720, kHeight = 400, kMargin = 50, kLine = 16;
constexpr double kSmoothing = 0.95;  // of the learnt losses, from point to point

/// Of held-out curves, by turns; what is learnt from has one of its own.
constexpr const char* kLearntColour = "#2a6fb0";
constexpr auto kColours =
    std::to_array<const char*>({"#c0522b", "#3d8a4f", "#8a5bb0", "#a8861c", "#2f8f8f", "#b0457a"});

/// Lines up to the step, whole ones only.
std::vector<std::string> lines_until(const std::string& path, const std::string& log,
                                     int64_t n_done) {
    std::istringstream in(log);
    std::vector<std::string> lines;
    std::string text;
    while (n_done > 0 && std::getline(in, text)) {
        const json line = parse_json(text);
        if (line.is_discarded() && in.eof()) break;  // half a line: the run ended in it
        if (!line.is_object() || !line.contains("step") || !line["step"].is_number_integer() ||
            !line.contains("loss") || !line["loss"].is_number()) {
            throw Error(ErrorCode::kCorrupt, cat("'", path, "' is no log of a training"));
        }
        if (line["step"].get<int64_t>() <= n_done) lines.push_back(text);
    }
    return lines;
}

}  // namespace

json to_json(const StepReport& r) {
    json line = {{"step", r.step},
                 {"loss", r.loss},
                 {"learning_rate", r.rate},
                 {"gradient_norm", r.gradient_norm},
                 {"seconds", r.seconds},
                 {"positions", r.n_positions},
                 {"documents", r.n_documents},
                 {"reading_seconds", r.reading_s}};
    for (const Measure& m : r.held_out) line["held_out"][m.name] = m.value;
    return line;
}

TrainingLog::TrainingLog(const std::string& path, int64_t n_done) : file_(path) {
    for (const std::string& line : lines_until(path, file_.text(), n_done)) {
        note(parse_json(line));
        kept_ += line + "\n";
    }
}

void TrainingLog::note(const json& of) {
    const auto step = of["step"].get<double>();
    const auto loss = of["loss"].get<double>();
    const double before = learnt_.empty() ? loss : learnt_.back().loss;
    const double weight = std::min(kSmoothing, step / (step + 10));
    learnt_.push_back({step, weight * before + (1 - weight) * loss});
    const auto held_out = of.find("held_out");
    if (held_out == of.end() || !held_out->is_object()) return;
    for (const auto& [name, value] : held_out->items()) {
        const bool has_loss =
            value.is_object() && value.contains("loss") && value["loss"].is_number();
        if (has_loss) {
            held_out_[cat("held out: ", name)].push_back({step, value["loss"].get<double>()});
        } else if (name == "loss" && value.is_number()) {
            held_out_["held out"].push_back({step, value.get<double>()});
        }
    }
}

void TrainingLog::add(const json& step) {
    note(step);
    // Only now: an earlier training's log stays until this one has learnt something.
    if (!is_cut_) {
        file_.cut(0);
        file_.add(kept_);
        is_cut_ = true;
    }
    file_.add(json_text(step) + "\n");
}

std::string TrainingLog::svg() const {
    double low = HUGE_VAL;
    double high = -HUGE_VAL;
    const auto stretch = [&](const Curve& points) {
        for (const Point& p : points) {
            low = std::min(low, p.loss);
            high = std::max(high, p.loss);
        }
    };
    stretch(learnt_);
    for (const auto& [name, points] : held_out_) stretch(points);
    if (learnt_.empty() || !(high > low)) high = low + 1;
    const double last = learnt_.empty() ? 1 : std::max(1.0, learnt_.back().step);
    std::ostringstream out;
    out << "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " << kWidth << ' ' << kHeight
        << "\" font-family=\"sans-serif\" font-size=\"12\">\n<title>Loss by step</title>\n"
        << "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n";
    const auto draw = [&](const Curve& points, const char* colour) {
        if (points.empty()) return;
        out << "<polyline fill=\"none\" stroke-width=\"2\" stroke=\"" << colour << "\" points=\"";
        const size_t stride = points.size() / 1000 + 1;
        for (size_t i = 0; i < points.size(); i += stride) {
            const double x = kMargin + (kWidth - 2 * kMargin) * points[i].step / last;
            const double y =
                kHeight - kMargin - (kHeight - 2 * kMargin) * (points[i].loss - low) / (high - low);
            out << fixed(x, 1) << ',' << fixed(y, 1) << ' ';
        }
        out << "\"/>\n";
    };
    const auto label = [&](double x, double y, const std::string& text, const char* colour) {
        out << "<text x=\"" << x << "\" y=\"" << y << "\" fill=\"" << colour << "\">" << text
            << "</text>\n";
    };
    label(5, kMargin, fixed(high, 3), "#444");
    label(5, kHeight - kMargin, fixed(low, 3), "#444");
    label(kMargin, kHeight - kMargin / 2, "step 0", "#444");
    label(kWidth - 2 * kMargin, kHeight - kMargin / 2, cat("step ", static_cast<int64_t>(last)),
          "#444");
    draw(learnt_, kLearntColour);
    double line = kMargin / 2;
    label(kWidth / 2, line, "learnt from (smoothed)", kLearntColour);
    size_t n = 0;
    for (const auto& [name, points] : held_out_) {
        const char* colour = kColours.at(n++ % kColours.size());
        draw(points, colour);
        line += kLine;
        label(kWidth / 2, line, escape_markup(name), colour);
    }
    out << "</svg>\n";
    return out.str();
}

}  // namespace palimpsest
