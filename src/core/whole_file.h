#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace palimpsest {

/// Writes a file whole or not at all, as OutputFile does it: its parts, one after another. Throws
/// kUnwritable.
void write_whole_file(const std::string& path, std::span<const std::span<const std::byte>> parts);

/// The same of one text.
void write_whole_file(const std::string& path, std::string_view text);

}  // namespace palimpsest
