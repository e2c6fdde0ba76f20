#include "bench/speed_line.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "text/json_text.h"

namespace palimpsest {

namespace {

using nlohmann::json;

SpeedLine speed_line_of(const json& line) {
    return {.phase = line.at("phase").get<std::string>(),
            .depth = line.at("depth").get<int64_t>(),
            .memory = line.at("memory").get<std::string>(),
            .beyond_training = line.value("beyond_training", false),
            .ours = line.at("ours").get<double>(),
            .full = line.value("full", 0.0),
            .peer = line.value("peer", 0.0),
            .ours_peak_rss_bytes = line.value("ours_peak_rss_bytes", 0.0),
            .peer_peak_rss_bytes = line.value("peer_peak_rss_bytes", 0.0),
            .threads = line.at("threads").get<int64_t>(),
            .repeats = line.value("repeats", int64_t{0}),
            .entries = line.value("entries", ""),
            .processor = line.value("processor", ""),
            .kernel = line.value("kernel", ""),
            .model = line.at("model").get<std::string>(),
            .commit = line.value("commit", "")};
}

/// Cheap: a file holds many more results of quality than of speed.
bool may_be_speed(std::string_view line) {
    return line.find("\"phase\"") != std::string_view::npos;
}

}  // namespace

std::vector<SpeedLine> read_speed_lines(std::string_view text, std::string_view name) {
    std::vector<SpeedLine> lines;
    size_t begin = 0;
    for (int64_t number = 1; begin < text.size(); ++number) {
        const size_t end = std::min(text.find('\n', begin), text.size());
        const std::string_view line = text.substr(begin, end - begin);
        begin = end + 1;
        if (!may_be_speed(line)) continue;
        const json parsed = parse_json(line);
        if (!parsed.is_object() || !parsed.contains("phase") || parsed.contains("kind")) continue;
        try {
            lines.push_back(speed_line_of(parsed));
        } catch (const json::exception& e) {
            throw Error(ErrorCode::kCorrupt, cat("'", name, "', line ", number,
                                                 ": no result of `bench speed`: ", e.what()));
        }
    }
    return lines;
}

}  // namespace palimpsest
