#include "core/error.h"

#include <array>

namespace palimpsest {

namespace {

struct Mapping {
    ErrorCode code;
    int exit_code;
    int http_status;
};

constexpr std::array<Mapping, 6> kMappings = {{
    {ErrorCode::kInvalidArgument, 2, 400},
    {ErrorCode::kNotFound, 3, 404},
    {ErrorCode::kCorrupt, 4, 422},
    {ErrorCode::kUnsupported, 5, 501},
    {ErrorCode::kExhausted, 6, 507},
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

void check(bool ok, std::string_view what, const char* file, int line) {
    if (ok) return;
    throw Error(ErrorCode::kInternal, cat(file, ":", line, ": ", what));
}

}  // namespace palimpsest
