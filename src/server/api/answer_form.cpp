#include "server/api/answer_form.h"

#include <random>

#include "core/error.h"
#include "text/json_text.h"

namespace palimpsest {

int64_t FinishedWork::n_written() const {
    int64_t n = 0;
    for (const FinishedAnswer& a : answers) n += a.n_tokens;
    return n;
}

std::string new_id(std::string_view prefix) {
    static constexpr std::string_view kDigits = "0123456789abcdef";
    std::random_device random;
    std::string id(prefix);
    for (int i = 0; i < 24; ++i) id += kDigits[random() % 16];
    return id;
}

std::string event(const Json& data) { return cat("data: ", json_text(data), "\n\n"); }

std::string event(std::string_view name, const Json& data) {
    return cat("event: ", name, "\ndata: ", json_text(data), "\n\n");
}

Json memory_usage(const WorkMemory& m) {
    return {{"policy", m.policy},   {"budget", m.budget}, {"tokens_in", m.tokens_in},
            {"held", m.kept},       {"partly", m.partly}, {"latent", m.latent},
            {"dropped", m.dropped}, {"bytes", m.bytes},   {"peak_bytes", m.peak_bytes}};
}

void add_memory(Json& usage, Json& answer, const WorkMemory& memory) {
    if (memory.policy.empty()) return;
    usage["memory"] = memory_usage(memory);
    answer["memory"] = memory_report(memory);
}

Json memory_report(const WorkMemory& m) {
    if (m.report.empty()) return memory_usage(m);
    return parse_json<Json>(m.report);
}

}  // namespace palimpsest
