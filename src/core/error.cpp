#include "core/error.h"

#include <array>

namespace palimpsest {

namespace {

struct Mapping {
    ErrorCode code;
    int exit_code;
    int http_status;
};

constexpr std::array<Mapping, 7> kMappings = {{
    {ErrorCode::kInvalidArgument, 2, 400},
    {ErrorCode::kNotFound, 3, 404},
    {ErrorCode::kCorrupt, 4, 422},
    {ErrorCode::kUnsupported, 5, 501},
    {ErrorCode::kExhausted, 6, 507},
    {ErrorCode::kUnwritable, 74, 503},
    {ErrorCode::kInternal, 70, 500},
}};

const Mapping& mapping(ErrorCode code) noexcept {
    for (const Mapping& m : kMappings) {
        if (m.code == code) return m;
    }
    return kMappings.back();
}

}  // namespace

int exit_code(ErrorCode code) noexcept { return mapping(code).exit_code; }

int http_status(ErrorCode code) noexcept { return mapping(code).http_status; }

bool is_shortage(const std::system_error& error) noexcept {
    return error.code() == std::errc::not_enough_memory ||
           error.code() == std::errc::resource_unavailable_try_again;
}

void check(bool ok, std::string_view what, const char* file, int line) {
    if (ok) return;
    throw Error(ErrorCode::kInternal, cat(file, ":", line, ": ", what));
}

}  // namespace palimpsest
