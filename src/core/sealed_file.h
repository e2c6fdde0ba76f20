#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace palimpsest {

// Files of work in progress: with a check sum at their end, so that a damaged one is found out and
// made anew.

/// Writes it whole or not at all. Throws kUnwritable.
void write_sealed(const std::string& path, std::string_view content);

/// The content; nullopt if there is no file. Throws kCorrupt, naming it, if it was cut or changed.
[[nodiscard]] std::optional<std::string> read_sealed(const std::string& path);

}  // namespace palimpsest
