#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace palimpsest {

/// A line of `bench speed --json`, as far as a report needs it. Rates in tokens per second; 0: not
/// measured.
struct SpeedLine {
    std::string phase;  // "prefill", "decode" or "prompt"
    int64_t depth = 0;
    std::string memory;
    bool beyond_training = false;
    double ours = 0, full = 0, peer = 0;
    double ours_peak_rss_bytes = 0, peer_peak_rss_bytes = 0;
    int64_t threads = 0, repeats = 0;
    std::string entries, processor, kernel, model, commit;
};

/// The lines of speed among all lines of a file; others are skipped. Throws kCorrupt, with the
/// line's number, for one that lacks something.
std::vector<SpeedLine> read_speed_lines(std::string_view text, std::string_view name);

}  // namespace palimpsest
