#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#pragma GCC visibility push(default)

namespace palimpsest {

/// Where in an answer a grammar begins to hold.
struct GrammarTrigger {
    enum class Kind { kWord, kPattern, kWholePattern };  // a text; regular expressions
    Kind kind = Kind::kWord;
    std::string value = {};
};

/// What a token's logit is changed by before one is drawn.
struct LogitBias {
    int32_t token = 0;
    float bias = 0;
};

/// How a token is drawn.
struct SamplingOptions {
    float temperature = 0.0F;        // 0: always the most likely token
    int32_t top_k = 40;              // 0: no limit
    float top_p = 0.95F;             // (0, 1]; 1: no limit
    float min_p = 0.05F;             // [0, 1); 0: no limit
    float repeat_penalty = 1.0F;     // > 0; 1: none
    float frequency_penalty = 0.0F;  // 0: none
    float presence_penalty = 0.0F;   // 0: none
    int32_t penalty_last_n = 64;     // tokens the penalties look back on
    uint32_t seed = 0;               // the same seed gives the same text
    std::string grammar = {};        // GBNF that the answer must follow; empty: none
    /// If not empty, the grammar holds from the first of these on, and not before.
    std::vector<GrammarTrigger> triggers = {};
    std::vector<LogitBias> bias = {};
    std::vector<int32_t> never = {};  // tokens that are never picked
};

struct AnswerOptions {
    SamplingOptions sampling = {};
    int64_t max_tokens = 256;
    std::vector<std::string> stop = {};  // texts that end the answer; not part of it
    /// With every token, log probabilities: its own, and of so many of the likeliest. -1: none.
    int n_likeliest = -1;
};

/// How likely the model, before anything is drawn, biased or forbidden, took a token to be.
struct TokenLikelihood {
    int32_t token = 0;
    double log_probability = 0;
    std::vector<TokenLikelihood> likeliest = {};  // in order; of the picked token only
};

enum class StopReason { kEndToken, kStopText, kLength, kCancelled };

/// "end", "stop", "length", "cancelled".
[[nodiscard]] std::string_view to_string(StopReason reason);

struct GenerateResult {
    StopReason reason = StopReason::kLength;
    int64_t n_prompt = 0, n_generated = 0;
    double prefill_s = 0, decode_s = 0;  // wall seconds; prefill_s is the time to the first token
    std::string text;
    std::string stop_text = {};   // which of the texts that end an answer it was
    std::vector<int32_t> tokens;  // those picked, the one that ended the text left out
    std::vector<TokenLikelihood> likelihoods = {};  // of `tokens`, if they were asked for
};

/// An answer as it comes about: piece by piece, by whoever asked for it, who may stop between any
/// two pieces. Made by Conversation::ask(), which it must not outlive. Running out of context while
/// writing is StopReason::kLength, not an error.
class Generation {
 public:
    enum class Activity { kReading, kRepeating, kWriting, kOver };
    struct Progress {
        Activity activity = Activity::kReading;
        int64_t done = 0;   // tokens read, repeated or written
        int64_t total = 0;  // of the prompt or its repetition; 0 while writing
    };
    /// Of run(): returning false stops.
    using OnText = std::function<bool(std::string_view)>;
    using OnProgress = std::function<bool(const Progress&)>;

    ~Generation();
    Generation(Generation&&) noexcept;
    Generation& operator=(Generation&&) noexcept;
    Generation(const Generation&) = delete;
    Generation& operator=(const Generation&) = delete;

    /// Reads one chunk, has one repeated, or writes one token. Returns false when all is done.
    /// Throws Error: kExhausted for lack of memory.
    bool step();
    [[nodiscard]] Progress progress() const;
    /// What was written since the last call: valid UTF-8, whole characters.
    [[nodiscard]] std::string take_text();
    /// Ends it here. What was read stays read; but while a memory has the prompt repeated, the
    /// conversation is good for reset() only afterwards.
    void cancel();
    /// Complete once step() has returned false.
    [[nodiscard]] const GenerateResult& result() const;

    /// Steps to the end.
    GenerateResult run(const OnText& on_text = {}, const OnProgress& on_progress = {});

 private:
    friend class Conversation;
    struct State;
    explicit Generation(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace palimpsest

#pragma GCC visibility pop
