#include "bench/quality/sample_prompt.h"

#include <algorithm>
#include <functional>

#include "core/error.h"
#include "engine/prefix_text.h"

namespace palimpsest {

namespace {

void append(std::vector<TokenId>& to, std::span<const TokenId> tokens) {
    to.insert(to.end(), tokens.begin(), tokens.end());
}

std::vector<Segment> segments_of(const Tokenizer& tokenizer, const Sample& sample,
                                 bool with_template, const PrefixDocument* prefix,
                                 const Regions* regions = nullptr) {
    const std::vector<TextPart> parts = {{.text = sample.context, .is_context = true},
                                         {.text = sample.question, .keep = true}};
    if (prefix != nullptr) return request_after(*prefix, tokenizer, parts);
    const bool is_chat = with_template && sample.has_template && tokenizer.has_chat_template();
    constexpr auto kSeams = Tokenizer::Seams::kJoined;
    if (!is_chat) return tokenizer.encode_raw(parts, kSeams, regions);
    const ChatMessage message = {.role = "user", .parts = parts};
    return tokenizer.encode_chat(std::span(&message, 1), tokenizer.chat_template(), kSeams,
                                 regions);
}

/// Segments that stand before the question, which is what must be kept; line breaks behind a region
/// among them.
size_t n_before_question(const std::vector<Segment>& segments, const Sample& sample) {
    const auto last =
        std::ranges::find(segments.rbegin(), segments.rend(), true, &Segment::is_context);
    require(last != segments.rend(), "sample ", sample.id, " has no context");
    const auto question = std::find_if(last.base(), segments.end(), std::mem_fn(&Segment::keep));
    return static_cast<size_t>((question != segments.end() ? question : last.base()) -
                               segments.begin());
}

}  // namespace

SamplePrompt encode_sample(const Tokenizer& tokenizer, const Sample& sample, bool with_template,
                           const PrefixDocument* prefix) {
    const std::vector<Segment> segments = segments_of(tokenizer, sample, with_template, prefix);
    const size_t n_before = n_before_question(segments, sample);
    SamplePrompt prompt;
    for (size_t i = 0; i < segments.size(); ++i) {
        const Segment& s = segments[i];
        append(i < n_before ? prompt.context : (s.keep ? prompt.question : prompt.ending),
               s.tokens);
    }
    const bool is_asked = sample.question.empty() || !prompt.question.empty();
    check(is_asked, "a template dropped the question");
    append(prompt.ending, tokenizer.encode(sample.answer_prefix));
    return prompt;
}

std::vector<Segment> encode_context(const Tokenizer& tokenizer, const Sample& sample,
                                    bool with_template, const Regions& regions) {
    std::vector<Segment> segments =
        segments_of(tokenizer, sample, with_template, nullptr, &regions);
    segments.resize(n_before_question(segments, sample));
    return segments;
}

int64_t count_tokens(const SamplePrompt& p) {
    return std::ssize(p.context) + std::ssize(p.question) + std::ssize(p.ending);
}

}  // namespace palimpsest
