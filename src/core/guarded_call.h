#pragma once

#include <cstddef>
#include <functional>
#include <string>

namespace palimpsest {

struct GuardLimits {
    int seconds = 1;   // of the processor and of the clock
    size_t bytes = 0;  // of memory, beyond what the process has
};

struct GuardedResult {
    std::string text;   // what the function returned
    std::string ended;  // how it ended instead, as in "a trial ... took more than 5 s"; empty: well
};

/// Calls `function` in a process of its own, a copy of this one, and returns what it returned: for
/// code that may crash, hang or take all memory on what a file says. An exception's message counts
/// as a text. Nothing the function does to memory is seen here. Throws kExhausted if there is no
/// room for a process. Only the calling thread lives in the copy, so it must not start work on
/// other threads or wait for them; a copy that stands still, as one does that was made while
/// another thread held a lock it needs, is given up and made again.
[[nodiscard]] GuardedResult guarded_call(const GuardLimits& limits,
                                         const std::function<std::string()>& function);

}  // namespace palimpsest
