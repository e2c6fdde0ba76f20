#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace palimpsest {

/// What one request, and all of them together, may take.
struct ServerLimits {
    int64_t body_bytes = int64_t{64} << 20;
    int64_t all_body_bytes = int64_t{2} << 30;
    int64_t import_bytes = int64_t{1} << 30;
    int64_t header_bytes = 64 << 10;
    int64_t header_count = 100;
    int64_t connections = 1024;
    int64_t request_seconds = 60;
    int64_t write_seconds = 30;
    int64_t queued_bytes = int64_t{4} << 20;
    int64_t queue = 128;
    int64_t messages = 4096;
    int64_t parts = 16384;
    int64_t choices = 8;
    int64_t max_tokens = 32768;
    int64_t stops = 16;
    int64_t stop_bytes = 1024;
    int64_t tools = 128;
    int64_t schema_bytes = 256 << 10;
    int64_t template_bytes = int64_t{128} << 20;
    int64_t inputs = 256;
};

/// One limit: its flag, what it is of, and where it stands.
struct LimitKind {
    std::string_view name;     // the flag is --limit-NAME
    std::string_view summary;  // with its unit
    int64_t ServerLimits::*value;
    int64_t least = 1, most = int64_t{1} << 40;
};

[[nodiscard]] std::span<const LimitKind> limit_kinds();

}  // namespace palimpsest
