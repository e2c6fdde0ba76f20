#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace palimpsest {

/// Byte offset of the first byte that is not part of valid UTF-8 (RFC 3629); nullopt if all is.
[[nodiscard]] std::optional<size_t> find_invalid_utf8(std::string_view text);

/// `text` with every invalid byte replaced by U+FFFD.
[[nodiscard]] std::string replace_invalid_utf8(std::string_view text);

/// `text` without the byte-order mark that some editors begin a file with: it is no part of a text.
[[nodiscard]] std::string without_mark(std::string text);
/// `text` as it can be shown to people: control characters, and those that turn the direction of
/// writing around, as escapes ("\x1b", "\u202e", "\n"), invalid bytes as U+FFFD. A terminal does
/// nothing but write it.
[[nodiscard]] std::string printable(std::string_view text);
/// The same, with line breaks and tabs as they are.
[[nodiscard]] std::string printable_lines(std::string_view text);

/// Bytes at the end of `text` that begin a character and may be completed by more; 0 to 3.
[[nodiscard]] size_t unfinished_utf8(std::string_view text);

}  // namespace palimpsest
