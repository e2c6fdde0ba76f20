#pragma once

#include <sstream>
#include <string>
#include <string_view>
#include <system_error>

#include "palimpsest/error.h"

namespace palimpsest {

/// Process exit status: 2, 3, 4, 5, 6, 74 in the order of ErrorCode, 70 for kInternal.
[[nodiscard]] int exit_code(ErrorCode code) noexcept;
/// HTTP status: 400, 404, 422, 501, 507, 503, 500 in that order.
[[nodiscard]] int http_status(ErrorCode code) noexcept;

/// Is it memory that is missing, or threads, which need some too?
[[nodiscard]] bool is_shortage(const std::system_error& error) noexcept;

/// Joins printable values into one text. Throws std::bad_alloc.
template <typename... Parts>
[[nodiscard]] std::string cat(const Parts&... parts) {
    std::ostringstream out;
    out.exceptions(std::ios::badbit);  // no memory is said, not left out
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
