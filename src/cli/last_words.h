#pragma once

#include <string_view>

namespace palimpsest {

inline constexpr std::string_view kNoMemory =
    "out of memory; a smaller --context or --memory-budget, or fewer --threads, need less";

/// Writes to standard error without memory, from any thread or signal handler.
void say_last(std::string_view text) noexcept;

/// From now on the program ends with a sentence and an exit status of its own also where nothing
/// can be caught: what a thread of a kernel throws, libraries that give up, OpenMP that finds no
/// room for its threads, code that uses memory it did not get. Mostly memory is short then, so
/// saying it needs none.
void have_last_words();

}  // namespace palimpsest
