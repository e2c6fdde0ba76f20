#include "engine/generate.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/error.h"

namespace palimpsest {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

const AnswerOptions& checked(const AnswerOptions& o) {
    require(o.max_tokens >= 1, "at most ", o.max_tokens, " tokens; it must be 1 or more");
    for (const std::string& s : o.stop) require(!s.empty(), "a stop text is empty");
    require(o.n_likeliest <= 100, o.n_likeliest, " likeliest tokens; at most 100");
    return o;
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

std::string AnswerWriter::StopFilter::push(std::string_view more, bool& stopped) {
    held_ += more;
    size_t cut = std::string::npos;
    for (const std::string& s : stops_) {
        const size_t at = held_.find(s);
        if (at >= cut) continue;
        cut = at;
        found_ = s;
    }
    stopped = cut != std::string::npos;
    const size_t safe = stopped ? cut : held_.size() - longest_beginning();
    std::string out = held_.substr(0, safe);
    held_.erase(0, safe);
    return out;
}

std::string AnswerWriter::StopFilter::finish() { return std::exchange(held_, {}); }

/// Length of the longest end of the held text that begins a stop text.
size_t AnswerWriter::StopFilter::longest_beginning() const {
    size_t longest = 0;
    for (const std::string& s : stops_) {
        for (size_t n = std::min(s.size() - 1, held_.size()); n > longest; --n) {
            if (held_.ends_with(std::string_view(s).substr(0, n))) longest = n;
        }
    }
    return longest;
}

AnswerWriter::AnswerWriter(const Tokenizer* tokenizer, int64_t n_vocab,
                           const AnswerOptions& options)
    : tokenizer_(tokenizer),
      options_(checked(options)),
      sampler_(options.sampling, n_vocab, tokenizer == nullptr ? nullptr : tokenizer->vocab()),
      filter_(options.stop) {
    if (tokenizer != nullptr) stream_.emplace(*tokenizer);
}

void AnswerWriter::show(const std::string& text) {
    result_.text += text;
    fresh_ += text;
}

std::string AnswerWriter::take_text() { return std::exchange(fresh_, {}); }

void AnswerWriter::cancel() {
    const bool ended_itself = is_over_ && result_.reason == StopReason::kEndToken;
    if (!ended_itself) result_.reason = StopReason::kCancelled;
    is_over_ = true;
}

/// The end was not a stop text after all, unless it is one: shows what was held back.
void AnswerWriter::end(StopReason reason) {
    is_over_ = true;
    result_.reason = reason;
    result_.n_generated = std::ssize(result_.tokens);
    if (!stream_) return;
    bool stopped = false;
    std::string rest = filter_.push(stream_->finish(), stopped);
    if (stopped) {
        result_.reason = StopReason::kStopText;
        result_.stop_text = filter_.found();
    }
    if (!stopped) rest += filter_.finish();
    show(rest);
}

void AnswerWriter::note_likelihood(TokenId token, std::span<const float> logits) {
    const double most = *std::ranges::max_element(logits);
    double total = 0;
    for (const float l : logits) total += std::exp(static_cast<double>(l) - most);
    const double log_total = most + std::log(total);
    const auto of = [&](TokenId t) {
        return TokenLikelihood{
            .token = t,
            .log_probability = static_cast<double>(logits[static_cast<size_t>(t)]) - log_total};
    };
    std::vector<TokenId> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    const auto n = std::min<std::ptrdiff_t>(options_.n_likeliest, std::ssize(order));
    std::ranges::partial_sort(order, order.begin() + n, [&](TokenId a, TokenId b) {
        return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
    });
    TokenLikelihood picked = of(token);
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        picked.likeliest.push_back(of(order[static_cast<size_t>(i)]));
    }
    result_.likelihoods.push_back(std::move(picked));
}

bool AnswerWriter::next(Sequence& sequence) {
    check(!is_over_, "an answer that is over goes on");
    const TokenId token = sampler_.pick(sequence.logits());
    if (tokenizer_ != nullptr && tokenizer_->ends_text(token)) {
        end(StopReason::kEndToken);
        return false;
    }
    result_.tokens.push_back(token);
    if (options_.n_likeliest >= 0) note_likelihood(token, sequence.logits());
    result_.n_generated = std::ssize(result_.tokens);
    bool stopped = false;
    if (stream_) show(filter_.push(stream_->push(token), stopped));
    if (stopped) {
        is_over_ = true;
        result_.reason = StopReason::kStopText;
        result_.stop_text = filter_.found();
    } else if (result_.n_generated >= options_.max_tokens || sequence.room() < 1) {
        end(StopReason::kLength);
    } else {
        sequence.accept(token);
    }
    return !is_over_;
}

GenerateResult generate(Session& session, const Tokenizer& tokenizer, std::vector<Segment> prompt,
                        const AnswerOptions& options, const GenerateHooks& hooks) {
    AnswerWriter writer(&tokenizer, tokenizer.n_vocab(), options);
    writer.result().n_prompt = length_of(prompt, session.sequence().row_width());
    const auto start = Clock::now();
    const bool whole = session.feed(
        std::move(prompt), {.on_progress = hooks.on_prefill, .on_rehearsal = hooks.on_rehearsal});
    writer.result().prefill_s = seconds_since(start);
    if (!whole) {
        writer.cancel();
        return writer.result();
    }
    const auto first_token = Clock::now();
    while (true) {
        const bool goes_on = writer.next(session.sequence());
        const std::string text = writer.take_text();
        if (!text.empty() && hooks.on_text && !hooks.on_text(text)) {
            // A token that was to be read is not.
            session.sequence().cancel();
            writer.cancel();
            break;
        }
        if (!goes_on) break;
        session.step();
    }
    writer.result().decode_s = seconds_since(first_token);
    return writer.result();
}

}  // namespace palimpsest
