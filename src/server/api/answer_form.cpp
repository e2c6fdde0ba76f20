#include "server/api/answer_form.h"

#include "core/error.h"
#include "text/json_text.h"

namespace palimpsest {

int64_t FinishedWork::n_written() const {
    int64_t n = 0;
    for (const FinishedAnswer& a : answers) n += a.n_tokens;
    return n;
}

Json call_json(const std::string& id, const std::string& name, const std::string& arguments) {
    return {
        {"id", id}, {"type", "function"}, {"function", {{"name", name}, {"arguments", arguments}}}};
}

Json message_json(const ParsedAnswer& answer) {
    Json message = {{"role", "assistant"}, {"content", answer.content}};
    if (!answer.reasoning.empty()) message["reasoning_content"] = answer.reasoning;
    for (const ToolCall& c : answer.calls) {
        message["tool_calls"].push_back(call_json(c.id, c.name, c.arguments));
    }
    return message;
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
