#include "server/limits.h"

#include <array>

namespace palimpsest {

namespace {

using L = ServerLimits;

constexpr std::array kLimits = {
    LimitKind{"body-bytes", "bytes of a request's body", &L::body_bytes, 1024, int64_t{4} << 30},
    LimitKind{"all-body-bytes", "bytes of the bodies of all requests that are there",
              &L::all_body_bytes, 1024, int64_t{1} << 40},
    LimitKind{"import-bytes", "bytes of an imported conversation", &L::import_bytes, 1024,
              int64_t{64} << 30},
    LimitKind{"header-bytes", "bytes of a request's headers", &L::header_bytes, 1024, 1 << 20},
    LimitKind{"header-count", "headers of a request", &L::header_count, 8, 10000},
    LimitKind{"connections", "clients at once", &L::connections, 1, 100000},
    LimitKind{"request-seconds", "seconds until a request is there", &L::request_seconds, 1, 86400},
    LimitKind{"write-seconds", "seconds in which a client must take some of an answer",
              &L::write_seconds, 1, 86400},
    LimitKind{"queued-bytes", "bytes of an answer that a slow client may lag behind",
              &L::queued_bytes, 65536, int64_t{1} << 30},
    LimitKind{"queue", "requests that wait for the model", &L::queue, 1, 100000},
    LimitKind{"messages", "messages of a conversation", &L::messages, 1, 1000000},
    LimitKind{"parts", "parts of all its messages", &L::parts, 1, 1000000},
    LimitKind{"choices", "answers to one request (n)", &L::choices, 1, 256},
    LimitKind{"max-tokens", "tokens of one answer", &L::max_tokens, 1, 1 << 28},
    LimitKind{"stops", "stop texts", &L::stops, 0, 1024},
    LimitKind{"stop-bytes", "bytes of one stop text", &L::stop_bytes, 1, 65536},
    LimitKind{"tools", "tools", &L::tools, 0, 512},
    LimitKind{"schema-bytes", "bytes of a JSON schema, a grammar or all tools", &L::schema_bytes,
              64, int64_t{16} << 20},
    LimitKind{"template-bytes", "bytes that the chat template may write", &L::template_bytes, 1024,
              int64_t{4} << 30},
    LimitKind{"inputs", "texts of one request for embeddings or completions", &L::inputs, 1, 65536},
};

}  // namespace

std::span<const LimitKind> limit_kinds() { return kLimits; }

}  // namespace palimpsest
