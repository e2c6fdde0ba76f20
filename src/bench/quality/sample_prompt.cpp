#include "bench/quality/sample_prompt.h"

#include "core/error.h"
#include "engine/prefix_text.h"

namespace palimpsest {

namespace {

void append(std::vector<TokenId>& to, std::span<const TokenId> tokens) {
    to.insert(to.end(), tokens.begin(), tokens.end());
}

std::vector<Segment> segments_of(const Tokenizer& tokenizer, const Sample& sample,
                                 bool with_template, const PrefixDocument* prefix) {
    const std::vector<TextPart> parts = {{.text = sample.context, .is_context = true},
                                         {.text = sample.question}};
    if (prefix != nullptr) return request_after(*prefix, tokenizer, parts);
    const bool is_chat = with_template && sample.has_template && tokenizer.has_chat_template();
    if (!is_chat) return tokenizer.encode_raw(parts);
    const ChatMessage message = {.role = "user", .parts = parts};
    return tokenizer.encode_chat(std::span(&message, 1));
}

}  // namespace

SamplePrompt encode_sample(const Tokenizer& tokenizer, const Sample& sample, bool with_template,
                           const PrefixDocument* prefix) {
    const std::vector<Segment> segments = segments_of(tokenizer, sample, with_template, prefix);
    size_t n_before = 0;  // segments that stand before the question
    for (size_t i = 0; i < segments.size(); ++i) {
        if (segments[i].is_context) n_before = i + 1;
    }
    SamplePrompt prompt;
    std::vector<TokenId> rest;
    for (size_t i = 0; i < segments.size(); ++i) {
        append(i < n_before ? prompt.context : rest, segments[i].tokens);
    }
    require(!prompt.context.empty(), "sample ", sample.id, " has no context");
    // Parts are tokenized one by one, so the question's tokens stand at the front of the rest.
    const size_t n_question = tokenizer.encode(sample.question).size();
    check(n_question <= rest.size(), "a template dropped the question");
    prompt.question.assign(rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(n_question));
    prompt.ending.assign(rest.begin() + static_cast<std::ptrdiff_t>(n_question), rest.end());
    append(prompt.ending, tokenizer.encode(sample.answer_prefix));
    return prompt;
}

int64_t count_tokens(const SamplePrompt& p) {
    return std::ssize(p.context) + std::ssize(p.question) + std::ssize(p.ending);
}

}  // namespace palimpsest
