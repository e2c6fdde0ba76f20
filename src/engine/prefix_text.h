#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "memory/prefix/prefix_document.h"
#include "text/tokenizer.h"

namespace palimpsest {

/// A sample request and its answer: what is asked of a prefix.
struct TraceText {
    std::string prompt, response;
};

/// Reads JSON lines with the texts "prompt" and "response". Throws kCorrupt, with the line, for
/// anything else; kInvalidArgument if there is none.
std::vector<TraceText> parse_traces(std::string_view lines);
[[nodiscard]] std::string to_json_line(const TraceText& trace);

/// A trace behind its prefix.
struct TraceTokens {
    std::vector<TokenId> tokens;
    int64_t answer = 0;  // where the response starts
};

/// A prefix in a model's tokens: the text alone, or as what the system says before a conversation;
/// either way with everything that stands before a request.
class PrefixText {
 public:
    /// Throws kInvalidArgument for an empty text; kUnsupported if there is no chat template and the
    /// text is not raw. `tokenizer` must outlive it.
    PrefixText(const Tokenizer& tokenizer, std::string text, bool is_raw);

    [[nodiscard]] const std::string& text() const { return text_; }
    [[nodiscard]] bool is_raw() const { return is_raw_; }
    [[nodiscard]] const std::vector<TokenId>& tokens() const { return tokens_; }

    /// The text in n pieces about as long as each other, each a prefix of its own; lines stay
    /// whole where they can, words otherwise. Throws kInvalidArgument if there is too little text.
    [[nodiscard]] std::vector<PrefixText> pieces(int64_t n) const;

    /// What follows the prefix: a request, up to where its answer begins. Throws kInvalidArgument
    /// if the prefix is not the beginning of prefix and request.
    [[nodiscard]] std::vector<Segment> request(const std::vector<TextPart>& parts,
                                               const Regions* regions = nullptr) const;
    [[nodiscard]] TraceTokens trace(const TraceText& text) const;

 private:
    [[nodiscard]] std::vector<Segment> whole(const std::vector<TextPart>& parts,
                                             const Regions* regions = nullptr) const;

    const Tokenizer& tokenizer_;
    std::string text_;
    bool is_raw_;
    std::vector<TokenId> tokens_;
};

/// Throws kInvalidArgument, saying so, if a document's text does not give the tokens it was built
/// with.
void require_same_text(const PrefixHeader& header, const Tokenizer& tokenizer);

/// A whole conversation, up to where its answer begins; where it ends with the assistant's words,
/// up to their end. Behind `prefix`, whose text the system says, if there is one: without what
/// stands for it. Throws kInvalidArgument where the messages, the tools or the template put
/// something else in its place.
std::vector<Segment> encode_conversation(const Tokenizer& tokenizer, TemplateInput input,
                                         const ChatTemplate& chat_template,
                                         const PrefixDocument* prefix,
                                         const Regions* regions = nullptr);

/// A request behind a document as it was built. Throws kInvalidArgument, saying so, if its text
/// does not give the tokens it was built with.
std::vector<Segment> request_after(const PrefixDocument& document, const Tokenizer& tokenizer,
                                   const std::vector<TextPart>& parts,
                                   const Regions* regions = nullptr);

}  // namespace palimpsest
