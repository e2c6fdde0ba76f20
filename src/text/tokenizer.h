#pragma once

#include <llama-cpp.h>

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/gguf.h"
#include "core/types.h"
#include "palimpsest/message.h"

namespace palimpsest {

/// Vocabulary and chat template of a model file, over libllama. Immutable; safe to share.
class Tokenizer {
 public:
    /// nullptr if the file carries no vocabulary (`tokenizer.ggml.model` is "none" or absent).
    /// `file` is the checked content of the file at `path`.
    /// Throws kCorrupt if the vocabulary contradicts itself, kUnsupported if libllama refuses it.
    static std::unique_ptr<Tokenizer> load(const std::string& path, const GgufFile& file);

    /// Tokens of a text; special tokens are never recognised in it. No BOS is added.
    /// Throws kInvalidArgument, with the byte, if `text` is not UTF-8; kUnsupported, with the byte,
    /// if the vocabulary has no token for it.
    [[nodiscard]] std::vector<TokenId> encode(std::string_view text) const;

    /// `text`, which is UTF-8, with U+FFFD for every character that encode() would refuse.
    [[nodiscard]] std::string replace_inexpressible(std::string_view text) const;

    /// Tokens of text written by a template, where special tokens are recognised.
    /// Throws kUnsupported as encode() does.
    [[nodiscard]] std::vector<TokenId> encode_template(std::string_view text) const;

    /// The token that starts every text, if the model wants one; empty otherwise.
    [[nodiscard]] std::vector<TokenId> beginning() const;

    /// Raw bytes of one token; may be half a UTF-8 character. Empty for special tokens.
    /// Throws kInvalidArgument if the id is outside the vocabulary.
    [[nodiscard]] std::string bytes(TokenId token) const;
    /// The same, special tokens included: for showing tokens to people.
    [[nodiscard]] std::string visible(TokenId token) const;
    /// All tokens' bytes, joined.
    [[nodiscard]] std::string decode(std::span<const TokenId> tokens) const;

    [[nodiscard]] bool ends_text(TokenId token) const;
    [[nodiscard]] int64_t n_vocab() const;
    /// "BPE", "SPM" and so on, and the file's own name for it ("gpt2 / smollm").
    [[nodiscard]] std::string kind() const { return kind_; }

    /// Has the file a chat template of its own?
    [[nodiscard]] bool has_chat_template() const { return !chat_template_.empty(); }

    /// Tokens of a conversation that ends where the assistant begins to speak. Messages' texts are
    /// never parsed for special tokens, whatever they contain. Includes beginning(). What stands
    /// before the first message that is not the system's must be kept.
    /// `chat_template` is a name of libllama's (find_chat_template()); empty: the file's own.
    /// Throws kUnsupported if there is no template or libllama does not know it.
    [[nodiscard]] std::vector<Segment> encode_chat(std::span<const ChatMessage> messages,
                                                   std::string_view chat_template = {}) const;

    /// What follows an answer: its end, the next message, the assistant's beginning.
    [[nodiscard]] std::vector<Segment> encode_next_turn(const ChatMessage& message,
                                                        std::string_view chat_template = {}) const;

    /// A text outside any template: its parts, after beginning().
    [[nodiscard]] std::vector<Segment> encode_raw(std::span<const TextPart> parts) const;

    /// For libllama's samplers.
    [[nodiscard]] const llama_vocab* vocab() const { return vocab_; }

 private:
    explicit Tokenizer(llama_model_ptr model);
    [[nodiscard]] std::vector<TokenId> tokenize(std::string_view text, bool parse_special) const;
    [[nodiscard]] std::string piece(TokenId token, bool special) const;
    [[nodiscard]] std::string join(std::span<const TokenId> tokens, bool special) const;
    /// Throws kUnsupported if `tokens` lack a byte of `text`.
    void check_nothing_lost(std::string_view text, std::span<const TokenId> tokens,
                            bool special) const;
    [[nodiscard]] std::string render(std::span<const ChatMessage> messages,
                                     std::string_view chat_template) const;
    /// Template text and messages' texts from `rendered`, in which message i stands as marker(i).
    [[nodiscard]] std::vector<Segment> encode_rendered(std::string_view rendered,
                                                       std::span<const ChatMessage> messages,
                                                       size_t first) const;
    void append_parts(std::vector<Segment>& to, std::span<const TextPart> parts, bool keep) const;

    llama_model_ptr model_;
    const llama_vocab* vocab_;
    std::string chat_template_;
    std::string kind_;
};

/// Throws kInvalidArgument, listing the names there are, unless libllama has a template of that
/// name
/// ("chatml", "llama3", ...).
void find_chat_template(std::string_view name);

/// Turns tokens into text as they come; holds back an unfinished UTF-8 character.
class TextStream {
 public:
    /// `tokenizer` must outlive the stream.
    explicit TextStream(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
    /// The text that is whole after this token; always valid UTF-8.
    [[nodiscard]] std::string push(TokenId token);
    /// What was still held back, made valid.
    [[nodiscard]] std::string finish();

 private:
    const Tokenizer& tokenizer_;
    std::string held_;
};

}  // namespace palimpsest
