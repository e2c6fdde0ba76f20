#pragma once

#include <llama-cpp.h>

#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/gguf.h"
#include "core/types.h"
#include "palimpsest/message.h"
#include "text/chat_template.h"
#include "text/regions.h"
#include "text/special_tokens.h"

namespace palimpsest {

/// Vocabulary and chat template of a model file, over libllama. Immutable; safe to share.
class Tokenizer {
 public:
    /// nullptr if the file carries no vocabulary (`tokenizer.ggml.model` is "none" or absent).
    /// `file` is the checked content of the file at `path`.
    /// Throws kCorrupt if the vocabulary contradicts itself, kUnsupported if libllama refuses it.
    static std::unique_ptr<Tokenizer> load(const std::string& path, const GgufFile& file);

    /// Tokens of a text. It never comes to special tokens (SpecialTokens), whatever it contains.
    /// No BOS is added; a vocabulary that begins texts with a space (SPM) has it.
    /// Throws kInvalidArgument, with the byte, if `text` is not UTF-8; kUnsupported, with the byte,
    /// if the vocabulary has no token for it.
    [[nodiscard]] std::vector<TokenId> encode(std::string_view text) const;

    /// `text`, which is UTF-8, with U+FFFD for every character that encode() would refuse.
    [[nodiscard]] std::string replace_inexpressible(std::string_view text) const;

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
    /// What an answer ends with; -1 if the vocabulary has nothing for it.
    [[nodiscard]] TokenId end_of_turn() const;
    [[nodiscard]] int64_t n_vocab() const;
    /// "BPE", "SPM" and so on, and the file's own name for it ("gpt2 / smollm").
    [[nodiscard]] std::string kind() const { return kind_; }

    /// Has the file a chat template of its own?
    [[nodiscard]] bool has_chat_template() const { return !chat_template_.empty(); }
    /// The file's own template, read when it is first asked for. Throws kUnsupported if there is
    /// none, or it cannot be rendered.
    [[nodiscard]] const ChatTemplate& chat_template() const;
    /// Its text; empty: there is none. And what templates may write beside texts.
    [[nodiscard]] const std::string& chat_template_text() const { return chat_template_; }
    [[nodiscard]] ChatTemplate::Tokens template_tokens() const;
    /// What a user chose instead (ChatTemplate::from_choice()).
    [[nodiscard]] std::unique_ptr<const ChatTemplate> chosen_template(
        const std::string& choice) const;

    /// How texts of messages meet what stands beside them.
    enum class Seams {
        kJoined,    // as if all were one text, which is how libllama takes prompts
        kSeparate,  // tokens end where a message does, so that what follows it changes none
    };

    /// Tokens of a conversation that ends where the assistant begins to speak. Messages' texts are
    /// never parsed for special tokens, whatever they contain. Includes beginning(). What stands
    /// before the first message that is not the system's must be kept. A token that begins in one
    /// part and ends in another belongs to the latter. `regions` writes the parts that are
    /// documents, unless they must be kept.
    /// Throws as ChatTemplate::render() and encode() do.
    [[nodiscard]] std::vector<Segment> encode_chat(std::span<const ChatMessage> messages,
                                                   const ChatTemplate& chat_template,
                                                   Seams seams = Seams::kJoined,
                                                   const Regions* regions = nullptr) const;
    /// The same with tools, and whatever else a template is told.
    [[nodiscard]] std::vector<Segment> encode_chat(const TemplateInput& input,
                                                   const ChatTemplate& chat_template,
                                                   Seams seams = Seams::kJoined,
                                                   const Regions* regions = nullptr) const;
    /// The same with the file's own template.
    [[nodiscard]] std::vector<Segment> encode_chat(std::span<const ChatMessage> messages) const;

    /// What follows an answer: its end, the next message, the assistant's beginning.
    [[nodiscard]] std::vector<Segment> encode_next_turn(const ChatMessage& message,
                                                        const ChatTemplate& chat_template,
                                                        const Regions* regions = nullptr) const;
    [[nodiscard]] std::vector<Segment> encode_next_turn(const ChatMessage& message) const;

    /// Tokens of a template's words, in which special tokens are recognised.
    [[nodiscard]] std::vector<TokenId> encode_template(std::string_view text) const;

    /// A text outside any template: its parts, after beginning().
    [[nodiscard]] std::vector<Segment> encode_raw(std::span<const TextPart> parts,
                                                  Seams seams = Seams::kJoined,
                                                  const Regions* regions = nullptr) const;
    /// Parts that go on from what was read, each by itself.
    [[nodiscard]] std::vector<Segment> encode_more(std::span<const TextPart> parts,
                                                   const Regions* regions = nullptr) const;

    /// For libllama's samplers.
    [[nodiscard]] const llama_vocab* vocab() const { return vocab_; }

 private:
    explicit Tokenizer(llama_model_ptr model);

    /// What becomes of a part of the prompt.
    struct Fate {
        bool is_context = false;
        bool keep = false;
        bool operator==(const Fate&) const = default;
    };
    /// A stretch of a prompt: a template's words, in which special tokens are recognised, or plain
    /// text.
    struct Piece {
        std::string_view text;
        bool is_template = false;
        Fate fate = {};
    };
    class Writer;  // of pieces, as segments

    [[nodiscard]] static Piece plain_piece(const TextPart& part);

    [[nodiscard]] std::vector<Piece> pieces_of(std::span<const RenderedPiece> rendered,
                                               std::span<const ChatMessage> messages) const;
    [[nodiscard]] std::vector<TokenId> encode_piece(const Piece& piece) const;
    [[nodiscard]] std::vector<TokenId> tokenize(std::string_view text) const;
    /// As tokenize(), and no token of it is a hidden one.
    [[nodiscard]] std::vector<TokenId> plain(std::string_view text) const;
    void append_in_pieces(std::string_view text, std::vector<TokenId>& to) const;
    [[nodiscard]] std::string piece(TokenId token, bool special) const;
    [[nodiscard]] std::string join(std::span<const TokenId> tokens, bool special) const;

    llama_model_ptr model_;
    const llama_vocab* vocab_;
    SpecialTokens special_;
    bool begins_with_space_ = false;  // a text does, and what follows a special token
    std::string chat_template_;
    std::string kind_;
    mutable std::once_flag template_once_;
    mutable std::unique_ptr<const ChatTemplate> own_template_;
};

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
