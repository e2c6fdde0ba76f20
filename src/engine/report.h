#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/types.h"
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

/// `tokens` are the ids read so far, position after position; fewer are allowed. `tokenizer` may be
/// nullptr: spans then have no text. `width` columns.
std::string report_for_people(const MemoryReport& report, std::span<const TokenId> tokens,
                              const Tokenizer* tokenizer, int width);

/// The object that docs/formats.md describes.
std::string report_json(const MemoryReport& report, std::span<const TokenId> tokens,
                        const Tokenizer* tokenizer);

}  // namespace palimpsest
