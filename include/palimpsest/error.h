#pragma once

#include <stdexcept>
#include <string>

#pragma GCC visibility push(default)

namespace palimpsest {

/// What went wrong, as far as a caller can act on it.
enum class ErrorCode {
    kInvalidArgument,  // the caller asked for something impossible
    kNotFound,         // a file, tensor or registered name is missing
    kCorrupt,          // a file is not what it says it is
    kUnsupported,      // valid, but this build or backend cannot
    kExhausted,        // memory or context budget does not suffice
    kUnwritable,       // an output cannot be written: a full disk, no such folder
    kInternal,         // our bug
};

/// The only exception type the library throws on purpose.
class Error : public std::runtime_error {
 public:
    Error(ErrorCode code, const std::string& what) : std::runtime_error(what), code_(code) {}
    [[nodiscard]] ErrorCode code() const noexcept { return code_; }

 private:
    ErrorCode code_;
};

}  // namespace palimpsest

#pragma GCC visibility pop
