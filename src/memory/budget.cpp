#include "memory/budget.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <utility>

#include "core/error.h"

namespace palimpsest {

namespace {

constexpr double kMost = 1e12;

constexpr std::array<std::pair<std::string_view, double>, 9> kUnits = {{{"B", 1},
                                                                        {"kB", 1e3},
                                                                        {"KB", 1e3},
                                                                        {"MB", 1e6},
                                                                        {"GB", 1e9},
                                                                        {"KiB", 1024},
                                                                        {"MiB", 1048576},
                                                                        {"GiB", 1073741824},
                                                                        {"TiB", 1099511627776}}};

[[noreturn]] void refuse(std::string_view text, const std::string& why) {
    throw Error(ErrorCode::kInvalidArgument,
                cat("memory budget '", text, "' ", why,
                    "; write entries a head (1024), bytes (64MiB) or a share of the prompt (25%)"));
}

}  // namespace

Budget parse_budget(std::string_view text) {
    double number = 0;
    const char* end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data(), end, number);
    if (error != std::errc() || !std::isfinite(number))
        refuse(text, "does not start with a number");
    std::string_view unit(rest, static_cast<size_t>(end - rest));
    while (unit.starts_with(' ')) unit.remove_prefix(1);
    if (!(number > 0)) refuse(text, "is not above zero");
    if (unit == "%") {
        if (number > 100) refuse(text, "is over 100 %");
        if (!(number / 100 > 0)) refuse(text, "is not above zero");
        return {.kind = Budget::Kind::kShare, .count = 0, .share = number / 100};
    }
    if (unit.empty()) {
        if (number != std::floor(number)) refuse(text, "is no whole number of entries");
        if (number > kMost) refuse(text, "is absurdly large");
        return {.kind = Budget::Kind::kEntries, .count = static_cast<int64_t>(number), .share = 0};
    }
    const auto* const known =
        std::ranges::find(kUnits, unit, &std::pair<std::string_view, double>::first);
    if (known == kUnits.end()) refuse(text, cat("has the unknown unit '", unit, "'"));
    const double bytes = number * known->second;
    if (bytes < 1) refuse(text, "is less than one byte");
    if (bytes > 1e15) refuse(text, "is absurdly large");
    return {.kind = Budget::Kind::kBytes, .count = static_cast<int64_t>(bytes), .share = 0};
}

std::string to_string(const Budget& budget) {
    switch (budget.kind) {
        case Budget::Kind::kNone:
            return "everything";
        case Budget::Kind::kEntries:
            return cat(budget.count, budget.count == 1 ? " entry" : " entries", " a head");
        case Budget::Kind::kBytes:
            return cat(budget.count, " bytes");
        case Budget::Kind::kShare:
            return cat(budget.share * 100, " % of the prompt");
        case Budget::Kind::kEvicted:
            break;
    }
    return cat("all but ", budget.share * 100, " % of the positions read");
}

int64_t kept_of(int64_t n, double evicted) {
    return std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(n) * (1.0 - evicted)));
}

}  // namespace palimpsest
