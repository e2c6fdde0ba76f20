#pragma once

#include <cstddef>
#include <functional>
#include <string>

namespace palimpsest {

/// Most memory this process has had resident, in bytes; 0 where the system does not say.
[[nodiscard]] size_t peak_resident_bytes();

/// Memory this process has resident now, in bytes; 0 where the system does not say.
[[nodiscard]] size_t resident_bytes();

/// "AMD EPYC 9R14", or "unknown processor".
[[nodiscard]] std::string processor_name();

/// Bytes of main memory, and of what is free for new work now; 0 where the system does not say.
[[nodiscard]] size_t memory_bytes();
[[nodiscard]] size_t available_memory_bytes();

/// Runs `work` in a process of its own, so that its memory peak is its own, and returns what it
/// returned (one line). Throws kInternal if it fails. Call it before this process has threads.
std::string in_own_process(const std::function<std::string()>& work);

}  // namespace palimpsest
