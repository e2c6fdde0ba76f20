#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace palimpsest {

// Small pieces of text handling that metrics and loaders share; by ASCII where nothing else is
// said.

[[nodiscard]] bool is_space(char c);
[[nodiscard]] bool is_digit(char c);
/// Python's string.punctuation.
[[nodiscard]] bool is_punctuation(char c);
[[nodiscard]] std::string lower_case(std::string_view text);
/// Without white space at both ends.
[[nodiscard]] std::string_view strip(std::string_view text);
/// What white space parts.
[[nodiscard]] std::vector<std::string_view> split_words(std::string_view text);
/// What a separator parts, nothing between two of them included.
[[nodiscard]] std::vector<std::string_view> split_at(std::string_view text, char separator);
/// Up to the first line break, after leading line breaks are dropped.
[[nodiscard]] std::string_view first_line(std::string_view text);
/// Bytes of the character that a text begins with; 1 if none does.
[[nodiscard]] size_t character_size(std::string_view text);
/// The characters of UTF-8; a byte that belongs to none is one by itself.
[[nodiscard]] std::vector<std::string_view> characters_of(std::string_view text);
/// The number that Unicode gives a character; of a byte that is none, the byte.
[[nodiscard]] char32_t code_point(std::string_view character);
/// Is a character white space to Python, in Unicode too?
[[nodiscard]] bool is_white(std::string_view character);
/// Words of a text whose script puts nothing between words: runs of ASCII letters and digits, and
/// every other character that is not white space.
[[nodiscard]] std::vector<std::string_view> words_by_character(std::string_view text);
/// Runs of digits.
[[nodiscard]] std::vector<std::string_view> numbers_in(std::string_view text);
/// The first run of digits that stands right behind a mark; empty if there is none.
[[nodiscard]] std::string_view number_behind(std::string_view text, std::string_view mark);
/// Joins texts, `between` any two.
[[nodiscard]] std::string join(const std::vector<std::string>& texts, std::string_view between);
/// Offsets at which a text may be cut, from 0 to its size: behind white space, and in a longer run
/// without any, between two characters about every 32 bytes.
[[nodiscard]] std::vector<size_t> cut_points(std::string_view text);

}  // namespace palimpsest
