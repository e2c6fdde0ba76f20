#include "engine/prefix_text.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "text/json_text.h"

namespace palimpsest {

namespace {

// What a prefix ends with must not depend on what is asked of it.
constexpr auto kSeams = Tokenizer::Seams::kSeparate;

std::string text_of(const nlohmann::json& object, const char* name, int64_t line) {
    const auto found = object.find(name);
    if (found == object.end() || !found->is_string()) {
        throw Error(ErrorCode::kCorrupt,
                    cat("line ", line, " of the traces has no text '", name, "'"));
    }
    return found->get<std::string>();
}

std::vector<TokenId> flat(const std::vector<Segment>& segments) {
    std::vector<TokenId> tokens;
    for (const Segment& s : segments) {
        tokens.insert(tokens.end(), s.tokens.begin(), s.tokens.end());
    }
    return tokens;
}

/// Where to cut a text: after a line that ends within `reach` before `at`, after a word, or between
/// characters.
size_t cut_near(std::string_view text, size_t at, size_t reach) {
    for (const char border : {'\n', ' '}) {
        const size_t found = text.rfind(border, at - 1);
        if (found != std::string_view::npos && found + 1 + reach > at) return found + 1;
    }
    while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0U) == 0x80U) ++at;
    return at;
}

/// What follows a prefix's tokens.
std::vector<Segment> behind(std::span<const TokenId> prefix, std::vector<Segment> all) {
    auto at = prefix.begin();
    for (Segment& s : all) {
        const auto n = std::min(std::ssize(s.tokens), prefix.end() - at);
        require(std::equal(at, at + n, s.tokens.begin()),
                "the prefix memory and the request do not meet at a token: it is what the system ",
                "says, alone; a chat template that rewrites that or puts tools there cannot be ",
                "used with it");
        s.tokens.erase(s.tokens.begin(), s.tokens.begin() + n);
        at += n;
        if (at == prefix.end()) break;
    }
    std::erase_if(all, [](const Segment& s) { return s.tokens.empty() && !s.has_rows(); });
    return all;
}

/// The prefix that a document was made of.
PrefixText text_of(const PrefixHeader& h, const Tokenizer& tokenizer) {
    PrefixText text(tokenizer, h.text, h.is_raw);
    require(text.tokens() == h.tokens, "the prefix memory '", h.name, "' was built from ",
            h.tokens.size(), " tokens, but its text now gives ", text.tokens().size(),
            "; tokenizer or template changed: build it again");
    return text;
}

}  // namespace

std::vector<TraceText> parse_traces(std::string_view lines) {
    std::vector<TraceText> traces;
    int64_t number = 0;
    while (!lines.empty()) {
        const size_t end = std::min(lines.find('\n'), lines.size());
        const std::string_view line = lines.substr(0, end);
        lines.remove_prefix(std::min(lines.size(), end + 1));
        ++number;
        if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
        const nlohmann::json j = parse_json(line);
        if (!j.is_object()) {
            throw Error(ErrorCode::kCorrupt,
                        cat("line ", number, " of the traces is no JSON object with 'prompt' and ",
                            "'response'"));
        }
        traces.push_back({text_of(j, "prompt", number), text_of(j, "response", number)});
    }
    require(!traces.empty(), "there are no traces; write JSON lines with 'prompt' and 'response', ",
            "or let the model ask itself with --self-study");
    return traces;
}

std::string to_json_line(const TraceText& trace) {
    return json_text(nlohmann::json({{"prompt", trace.prompt}, {"response", trace.response}})) +
           "\n";
}

PrefixText::PrefixText(const Tokenizer& tokenizer, std::string text, bool is_raw)
    : tokenizer_(tokenizer), text_(std::move(text)), is_raw_(is_raw) {
    require(text_.find_first_not_of(" \t\r\n") != std::string::npos, "the prefix is empty");
    if (!is_raw && !tokenizer.has_chat_template()) {
        throw Error(ErrorCode::kUnsupported,
                    "this model has no chat template; build the prefix with --raw");
    }
    if (is_raw) {
        tokens_ = flat(tokenizer.encode_raw(std::vector<TextPart>{{text_}}, kSeams));
        return;
    }
    // What two conversations have in common that differ in their first word.
    const std::vector<TokenId> one = flat(whole({{"a"}}));
    const std::vector<TokenId> other = flat(whole({{"Z"}}));
    const auto [end, ignored] = std::ranges::mismatch(one, other);
    tokens_.assign(one.begin(), end);
}

std::vector<PrefixText> PrefixText::pieces(int64_t n) const {
    std::vector<PrefixText> all;
    const size_t size = text_.size() / static_cast<size_t>(n);
    require(size > 0, "a text of ", text_.size(), " bytes has no ", n, " pieces");
    size_t begin = 0;
    for (int64_t i = 1; i <= n; ++i) {
        const size_t end =
            i == n ? text_.size() : cut_near(text_, static_cast<size_t>(i) * size, size / 4);
        all.emplace_back(tokenizer_, text_.substr(begin, end - begin), is_raw_);
        begin = end;
    }
    return all;
}

std::vector<Segment> PrefixText::whole(const std::vector<TextPart>& parts,
                                       const Regions* regions) const {
    if (is_raw_) {
        std::vector<TextPart> all = {{text_}};
        all.insert(all.end(), parts.begin(), parts.end());
        return tokenizer_.encode_raw(all, kSeams, regions);
    }
    return tokenizer_.encode_chat(std::vector<ChatMessage>{{"system", {{text_}}}, {"user", parts}},
                                  tokenizer_.chat_template(), kSeams, regions);
}

std::vector<Segment> PrefixText::request(const std::vector<TextPart>& parts,
                                         const Regions* regions) const {
    return behind(tokens_, whole(parts, regions));
}

TraceTokens PrefixText::trace(const TraceText& text) const {
    TraceTokens t = {.tokens = flat(request({{text.prompt}})), .answer = 0};
    t.answer = std::ssize(t.tokens);
    const std::vector<TokenId> response = tokenizer_.encode(text.response);
    t.tokens.insert(t.tokens.end(), response.begin(), response.end());
    return t;
}

void require_same_text(const PrefixHeader& header, const Tokenizer& tokenizer) {
    static_cast<void>(text_of(header, tokenizer));
}

std::vector<Segment> request_after(const PrefixDocument& document, const Tokenizer& tokenizer,
                                   const std::vector<TextPart>& parts, const Regions* regions) {
    return text_of(document.header(), tokenizer).request(parts, regions);
}

std::vector<Segment> encode_conversation(const Tokenizer& tokenizer, TemplateInput input,
                                         const ChatTemplate& chat_template,
                                         const PrefixDocument* prefix, const Regions* regions) {
    std::vector<ChatMessage> messages(input.messages.begin(), input.messages.end());
    const std::vector<TextPart> begun = take_begun_answer(messages);
    if (prefix != nullptr) {
        messages.insert(messages.begin(), {.role = "system", .parts = {{prefix->header().text}}});
    }
    input.messages = messages;
    const auto seams = prefix == nullptr ? Tokenizer::Seams::kJoined : kSeams;
    std::vector<Segment> prompt = tokenizer.encode_chat(input, chat_template, seams, regions);
    if (prefix != nullptr) prompt = behind(prefix->header().tokens, std::move(prompt));
    for (Segment& s : tokenizer.encode_more(begun)) prompt.push_back(std::move(s));
    return prompt;
}

}  // namespace palimpsest
