#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace palimpsest {

// Small pieces of text handling, by ASCII, that metrics and loaders share.

[[nodiscard]] bool is_space(char c);
[[nodiscard]] bool is_digit(char c);
[[nodiscard]] std::string lower_case(std::string_view text);
/// Without white space at both ends.
[[nodiscard]] std::string_view strip(std::string_view text);
/// What white space parts.
[[nodiscard]] std::vector<std::string_view> split_words(std::string_view text);
/// Up to the first line break, after leading line breaks are dropped.
[[nodiscard]] std::string_view first_line(std::string_view text);
/// Runs of digits.
[[nodiscard]] std::vector<std::string_view> numbers_in(std::string_view text);
/// Joins texts, `between` any two.
[[nodiscard]] std::string join(const std::vector<std::string>& texts, std::string_view between);
/// Offsets at which a text may be cut, from 0 to its size: behind white space, and in a longer run
/// without any, between two characters about every 32 bytes.
[[nodiscard]] std::vector<size_t> cut_points(std::string_view text);

}  // namespace palimpsest
