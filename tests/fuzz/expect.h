#pragma once

#include <cstdio>
#include <string>

#include "core/error.h"

namespace palimpsest::fuzzing {

/// Stops the run, saying why: the answer is not what was promised.
[[noreturn]] inline void fail(const std::string& why) {
    std::fprintf(stderr, "fuzz: %s\n", why.c_str());
    __builtin_trap();
}

inline void expect(bool ok, const char* why) {
    if (!ok) fail(why);
}

/// Runs `work`, which gives something or throws Error for what is wrong with its input. Of all
/// errors kInternal alone says that the program is wrong. Returns whether it threw.
template <typename Work>
bool is_refused(const Work& work) {
    try {
        work();
    } catch (const Error& e) {
        if (e.code() == ErrorCode::kInternal) fail(e.what());
        return true;
    }
    return false;
}

}  // namespace palimpsest::fuzzing
