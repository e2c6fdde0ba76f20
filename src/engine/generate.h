#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/sampler.h"
#include "engine/session.h"
#include "text/tokenizer.h"

namespace palimpsest {

enum class StopReason { kEndToken, kStopText, kLength, kCancelled };

/// "end", "stop", "length", "cancelled".
[[nodiscard]] std::string_view to_string(StopReason reason);

struct GenerateOptions {
    SamplingOptions sampling = {};
    int64_t max_tokens = 256;
    std::vector<std::string> stop = {};  // texts that end the answer; not part of it
    std::function<bool(int64_t done, int64_t total)> on_prefill = {};  // false cancels
    /// While a memory has the prompt repeated. False cancels, and leaves a session to be reset.
    std::function<bool(int64_t done, int64_t total)> on_rehearsal = {};
};

struct GenerateResult {
    StopReason reason = StopReason::kLength;
    int64_t n_prompt = 0, n_generated = 0;
    double prefill_s = 0, decode_s = 0;  // wall seconds; prefill_s is the time to the first token
    std::string text;
    std::vector<TokenId> tokens;  // those picked, the one that ended the text left out
};

/// Reads the prompt and writes an answer. `on_text` gets whole UTF-8 pieces in order; returning
/// false cancels. Running out of context while writing is kLength, not an error.
GenerateResult generate(Session& session, const Tokenizer& tokenizer, std::vector<Segment> prompt,
                        const GenerateOptions& options,
                        const std::function<bool(std::string_view)>& on_text);

}  // namespace palimpsest
