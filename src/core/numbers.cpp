#include "core/numbers.h"

#include <array>
#include <cmath>
#include <sstream>

#include "core/error.h"

namespace palimpsest {

std::string fixed(double x, int digits) {
    std::ostringstream out;
    out.setf(std::ios::fixed);
    out.precision(digits);
    out << x;
    return out.str();
}

std::string human_bytes(size_t bytes) {
    constexpr std::array<const char*, 5> kUnits = {" B", " KB", " MB", " GB", " TB"};
    auto value = static_cast<double>(bytes);
    size_t unit = 0;
    while (value >= 999.5 && unit + 1 < kUnits.size()) {
        value /= 1000;
        ++unit;
    }
    const bool whole = unit == 0 || value >= 99.95;
    return fixed(value, whole ? 0 : 1) + kUnits.at(unit);
}

std::string human_count(int64_t n) {
    std::string digits = std::to_string(n);
    const auto sign = static_cast<int64_t>(n < 0 ? 1 : 0);
    for (int64_t at = std::ssize(digits) - 3; at > sign; at -= 3) {
        digits.insert(static_cast<size_t>(at), ",");
    }
    return digits;
}

std::string human_seconds(double seconds) {
    if (seconds < 60) return fixed(seconds, seconds < 10 ? 2 : 0) + " s";
    const auto whole = static_cast<int64_t>(std::lround(seconds));
    if (whole < 3600) return cat(whole / 60, " min ", whole % 60, " s");
    return cat(whole / 3600, " h ", whole % 3600 / 60, " min");
}

}  // namespace palimpsest
