#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace palimpsest {

/// Writes a file whole or not at all: its parts, one after another, into a file beside it that
/// takes its place once everything is on the disk. What stood there before survives every failure.
/// Throws kNotFound if the folder cannot be written to, kExhausted if the disk is full or fails.
void write_whole_file(const std::string& path, std::span<const std::span<const std::byte>> parts);

/// The same of one text.
void write_whole_file(const std::string& path, const std::string& text);

}  // namespace palimpsest
