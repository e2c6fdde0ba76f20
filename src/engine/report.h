#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/types.h"
#include "engine/read_tokens.h"
#include "palimpsest/report.h"
#include "text/tokenizer.h"

namespace palimpsest {

// What a memory kept and let go, told to people and to programs.

/// How much of the memory still holds a position: the share of heads that may forget.
enum class Retention {
    kKept,     // at least half of them
    kPartly,   // fewer
    kLatent,   // as few as dropped, but the residue took it in
    kDropped,  // less than one in twenty: next to nothing reads it any more
};
inline constexpr double kKeptFrom = 0.5;
inline constexpr double kDroppedBelow = 0.05;

[[nodiscard]] std::string_view to_string(Retention retention);

/// A run of positions [begin, end) of one retention.
struct RetentionSpan {
    int64_t begin = 0, end = 0;
    Retention retention = Retention::kKept;
    double held_share = 0;  // mean over the run
};

/// All positions seen, in order.
std::vector<RetentionSpan> retention_spans(const MemoryReport& report);

/// The text that positions stand for; spans have none where either is missing.
struct ReportText {
    const ReadTokens* tokens = nullptr;
    const Tokenizer* tokenizer = nullptr;
};

/// `width` columns.
std::string report_for_people(const MemoryReport& report, const ReportText& text, int width);

/// The object that docs/formats.md describes.
std::string report_json(const MemoryReport& report, const ReportText& text = {});

/// Entries that a head which may forget holds, on average.
[[nodiscard]] double mean_held(const MemoryReport& report);

}  // namespace palimpsest
