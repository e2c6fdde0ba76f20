#pragma once

#include <sstream>
#include <string>
#include <string_view>

#include "palimpsest/error.h"

namespace palimpsest {

/// Process exit status: 2, 3, 4, 5, 6 in the order above, 70 for kInternal.
[[nodiscard]] int exit_code(ErrorCode code) noexcept;
/// HTTP status: 400, 404, 422, 501, 507, 500 in the order above.
[[nodiscard]] int http_status(ErrorCode code) noexcept;

/// Joins printable values into one message.
template <typename... Parts>
[[nodiscard]] std::string cat(const Parts&... parts) {
    std::ostringstream out;
    (out << ... << parts);
    return out.str();
}

/// Throws kInvalidArgument unless `ok`; the parts name the value and the limit it broke.
template <typename... Parts>
void require(bool ok, const Parts&... parts) {
    if (!ok) throw Error(ErrorCode::kInvalidArgument, cat(parts...));
}

/// Throws kInternal, with file and line, unless `ok`. For invariants, in every build.
/// (Built-ins, for std::source_location is unknown to Clang 14.)
void check(bool ok, std::string_view what, const char* file = __builtin_FILE(),
           int line = __builtin_LINE());

}  // namespace palimpsest
