#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace palimpsest {

// Numbers as people read them.

/// A number with so many digits after the point.
[[nodiscard]] std::string fixed(double x, int digits);
/// "98.4 MB", "12 KB": powers of 1000, three digits.
[[nodiscard]] std::string human_bytes(size_t bytes);
/// "7,168"
[[nodiscard]] std::string human_count(int64_t n);
/// "0.42 s", "3 min 5 s"
[[nodiscard]] std::string human_seconds(double seconds);

}  // namespace palimpsest
