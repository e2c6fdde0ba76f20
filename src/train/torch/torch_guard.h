#pragma once

#include <c10/util/Exception.h>

#include <string>
#include <string_view>

#include "core/error.h"

namespace palimpsest {

/// What `run` returns; LibTorch's own exceptions become errors of ours, memory that is not there
/// kExhausted, all else kInternal.
template <class Run>
auto guarded_torch(Run run) {
    try {
        return run();
    } catch (const c10::Error& e) {
        const std::string what = e.what_without_backtrace();
        const bool is_memory = what.find("allocate memory") != std::string::npos;
        throw Error(is_memory ? ErrorCode::kExhausted : ErrorCode::kInternal,
                    cat("LibTorch: ", what));
    }
}

}  // namespace palimpsest
