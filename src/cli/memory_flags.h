#pragma once

#include <CLI/CLI.hpp>

#include "palimpsest/memory_choice.h"

namespace palimpsest {

/// Declares the flags of every command that can bound what a model remembers.
void add_memory_flags(CLI::App& command, MemoryChoice& choice);

}  // namespace palimpsest
