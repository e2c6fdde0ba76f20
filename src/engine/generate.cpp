#include "engine/generate.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "core/error.h"

namespace palimpsest {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Passes text on, but holds back what may yet turn out to be the beginning of a stop text.
class StopFilter {
 public:
    explicit StopFilter(const std::vector<std::string>& stops) : stops_(stops) {}

    /// What may be shown after `more` has come; sets `stopped` if a stop text is complete.
    std::string push(std::string_view more, bool& stopped) {
        held_ += more;
        size_t cut = std::string::npos;
        for (const std::string& s : stops_) cut = std::min(cut, held_.find(s));
        stopped = cut != std::string::npos;
        const size_t safe = stopped ? cut : held_.size() - longest_beginning();
        std::string out = held_.substr(0, safe);
        held_.erase(0, safe);
        return out;
    }

    std::string finish() { return std::exchange(held_, {}); }

 private:
    /// Length of the longest end of the held text that begins a stop text.
    [[nodiscard]] size_t longest_beginning() const {
        size_t longest = 0;
        for (const std::string& s : stops_) {
            for (size_t n = std::min(s.size() - 1, held_.size()); n > longest; --n) {
                if (held_.ends_with(std::string_view(s).substr(0, n))) longest = n;
            }
        }
        return longest;
    }

    const std::vector<std::string>& stops_;
    std::string held_;
};

int64_t count_tokens(const std::vector<Segment>& prompt) {
    int64_t n = 0;
    for (const Segment& s : prompt) n += std::ssize(s.tokens);
    return n;
}

void check_options(const GenerateOptions& o) {
    require(o.max_tokens >= 1, "at most ", o.max_tokens, " tokens; it must be 1 or more");
    for (const std::string& s : o.stop) require(!s.empty(), "a stop text is empty");
}

/// Writes until something ends it; `result` is complete afterwards but for its times.
void write_answer(Session& session, const Tokenizer& tokenizer, const GenerateOptions& options,
                  const std::function<bool(std::string_view)>& on_text, Sampler& sampler,
                  GenerateResult& result) {
    TextStream stream(tokenizer);
    StopFilter filter(options.stop);
    const auto show = [&](const std::string& text) {
        result.text += text;
        return text.empty() || !on_text || on_text(text);
    };
    bool stopped = false;
    bool wanted = true;
    while (wanted && !stopped) {
        const TokenId token = sampler.pick(session.logits());
        if (tokenizer.ends_text(token)) {
            result.reason = StopReason::kEndToken;
            break;
        }
        result.tokens.push_back(token);
        wanted = show(filter.push(stream.push(token), stopped));
        if (stopped) result.reason = StopReason::kStopText;
        if (!wanted) result.reason = StopReason::kCancelled;
        if (std::ssize(result.tokens) >= options.max_tokens) break;
        if (session.room() < 1) break;
        if (wanted && !stopped) session.accept(token);
    }
    if (stopped || !wanted) return;
    // The end was not a stop text after all: show what was held back.
    std::string rest = filter.push(stream.finish(), stopped);
    if (stopped) result.reason = StopReason::kStopText;
    if (!stopped) rest += filter.finish();
    show(rest);
}

}  // namespace

std::string_view to_string(StopReason reason) {
    switch (reason) {
        case StopReason::kEndToken:
            return "end";
        case StopReason::kStopText:
            return "stop";
        case StopReason::kLength:
            return "length";
        case StopReason::kCancelled:
            break;
    }
    return "cancelled";
}

GenerateResult generate(Session& session, const Tokenizer& tokenizer, std::vector<Segment> prompt,
                        const GenerateOptions& options,
                        const std::function<bool(std::string_view)>& on_text) {
    check_options(options);
    // Before anything is read: a bad option must not cost a prefill.
    Sampler sampler(options.sampling, tokenizer.n_vocab(), tokenizer.vocab());
    GenerateResult result;
    result.n_prompt = count_tokens(prompt);
    const auto start = Clock::now();
    const bool whole = session.feed(std::move(prompt), {.on_progress = options.on_prefill,
                                                        .on_rehearsal = options.on_rehearsal});
    result.prefill_s = seconds_since(start);
    if (!whole) {
        result.reason = StopReason::kCancelled;
        return result;
    }
    const auto first_token = Clock::now();
    write_answer(session, tokenizer, options, on_text, sampler, result);
    result.decode_s = seconds_since(first_token);
    result.n_generated = std::ssize(result.tokens);
    return result;
}

}  // namespace palimpsest
