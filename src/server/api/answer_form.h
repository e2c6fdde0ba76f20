#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "server/new_id.h"
#include "server/scheduler/work.h"
#include "text/tool_calls.h"

namespace palimpsest {

using Json = nlohmann::ordered_json;

/// What one answer has more than before.
struct AnswerDelta {
    struct Call {
        size_t index = 0;
        std::string id = {}, name = {};  // only when it begins
        std::string arguments = {};
    };
    size_t choice = 0;
    std::string content = {}, reasoning = {};
    std::vector<Call> calls = {};
    std::vector<TokenLikelihood> likelihoods = {};

    [[nodiscard]] bool is_empty() const {
        return content.empty() && reasoning.empty() && calls.empty() && likelihoods.empty();
    }
};

/// One answer, whole.
struct FinishedAnswer {
    ParsedAnswer parsed = {};  // every call has an id
    StopReason reason = StopReason::kEndToken;
    std::string stop_text = {};
    std::vector<TokenLikelihood> likelihoods = {};
    int64_t n_tokens = 0;
};

/// All of them, and what they took.
struct FinishedWork {
    std::vector<FinishedAnswer> answers = {};
    WorkResult result = {};

    [[nodiscard]] int64_t n_written() const;
};

/// How an API writes answers: at once, or in pieces of a stream. One object an answer.
class AnswerForm {
 public:
    AnswerForm() = default;
    virtual ~AnswerForm() = default;
    AnswerForm(const AnswerForm&) = delete;
    AnswerForm& operator=(const AnswerForm&) = delete;

    [[nodiscard]] virtual std::string whole(const FinishedWork& work) = 0;

    /// Of a stream.
    [[nodiscard]] virtual std::string content_type() const { return "text/event-stream"; }
    /// What comes before everything else.
    [[nodiscard]] virtual std::string opening() { return {}; }
    /// While a prompt is read, every second or so.
    [[nodiscard]] virtual std::string progress(const WorkProgress& progress) = 0;
    [[nodiscard]] virtual std::string delta(const AnswerDelta& delta) = 0;
    [[nodiscard]] virtual std::string closing(const FinishedWork& work) = 0;
    /// Something failed, once a stream has begun.
    [[nodiscard]] virtual std::string failure(const ApiError& error) = 0;
};

/// A message of an assistant, as OpenAI's chat completions and our transcripts have it.
[[nodiscard]] Json message_json(const ParsedAnswer& answer);
/// One of its calls.
[[nodiscard]] Json call_json(const std::string& id, const std::string& name,
                             const std::string& arguments);

/// One event of a stream.
[[nodiscard]] std::string event(const Json& data);
[[nodiscard]] std::string event(std::string_view name, const Json& data);

/// `usage.memory` and the report, where they were asked for.
void add_memory(Json& usage, Json& answer, const WorkMemory& memory);

/// usage.memory: tokens in, held, latent, dropped, bytes, policy.
[[nodiscard]] Json memory_usage(const WorkMemory& memory);
/// Top-level `memory`: the report in full, or the same as usage.memory.
[[nodiscard]] Json memory_report(const WorkMemory& memory);

}  // namespace palimpsest
