#include "text/tokenizer.h"

#include <algorithm>
#include <exception>
#include <limits>
#include <optional>

#include "core/error.h"
#include "text/message_finder.h"
#include "text/text_parts.h"
#include "text/utf8.h"
#include "text/vocabulary.h"

namespace palimpsest {

namespace {

/// "byte 10 (line 3)"
std::string place(std::string_view text, size_t at) {
    return cat("byte ", at, " (line ", 1 + std::ranges::count(text.substr(0, at), '\n'), ")");
}

/// "0x0A"
std::string hex(char byte) {
    constexpr std::string_view kDigits = "0123456789ABCDEF";
    const auto value = static_cast<unsigned char>(byte);
    return {'0', 'x', kDigits[value / 16], kDigits[value % 16]};
}

}  // namespace

Tokenizer::Tokenizer(llama_model_ptr model)
    : model_(std::move(model)), vocab_(llama_model_get_vocab(model_.get())), special_(vocab_) {}

std::unique_ptr<Tokenizer> Tokenizer::load(const std::string& path, const GgufFile& file) {
    if (!has_vocabulary(file)) return nullptr;
    std::unique_ptr<Tokenizer> t(new Tokenizer(load_vocabulary(path, file)));
    t->begins_with_space_ = begins_with_space(t->vocab_, file);
    t->chat_template_ = file.text("tokenizer.chat_template").value_or("");
    t->kind_ = vocabulary_kind(t->vocab_, file);
    return t;
}

std::vector<TokenId> Tokenizer::tokenize(std::string_view text) const {
    require(text.size() < static_cast<size_t>(std::numeric_limits<int32_t>::max()), "a text of ",
            text.size(), " bytes is too long to tokenize at once; the limit is 2 GiB");
    std::vector<TokenId> tokens(text.size() + 1);  // a token has at least one byte
    int32_t n = 0;
    const auto write = [&] {
        return llama_tokenize(vocab_, text.data(), static_cast<int32_t>(text.size()), tokens.data(),
                              static_cast<int32_t>(tokens.size()), false, false);
    };
    try {
        n = write();
        if (n < 0 && n != std::numeric_limits<int32_t>::min()) {
            tokens.resize(static_cast<size_t>(-n));
            n = write();
        }
    } catch (const std::exception& e) {
        throw Error(ErrorCode::kCorrupt,
                    cat("the vocabulary cannot express this text: ", e.what()));
    }
    check(n >= 0, "tokenization did not fit twice");
    tokens.resize(static_cast<size_t>(n));
    return tokens;
}

std::vector<TokenId> Tokenizer::plain(std::string_view text) const {
    const std::vector<TokenId> all = tokenize(text);
    if (std::ranges::none_of(all, [this](TokenId t) { return special_.is_hidden(t); })) return all;
    std::vector<TokenId> tokens;
    size_t at = 0;
    for (const TokenId t : all) {
        const std::string letters = piece(t, true);
        // Where an unknown token stands for other letters than its own, it is no secret.
        const bool is_own = at <= text.size() && text.substr(at).starts_with(letters);
        at += letters.size();
        if (special_.is_hidden(t) && is_own) {
            append_in_pieces(letters, tokens);
        } else {
            tokens.push_back(t);
        }
    }
    return tokens;
}

/// Its first character by itself, so that nothing of it is the token that it was.
void Tokenizer::append_in_pieces(std::string_view text, std::vector<TokenId>& to) const {
    const size_t n = character_size(text);
    const auto append = [&to](const std::vector<TokenId>& more) {
        to.insert(to.end(), more.begin(), more.end());
    };
    if (n < text.size()) {
        append(plain(text.substr(0, n)));
        append(plain(text.substr(n)));
        return;
    }
    for (const char byte : text) {
        const std::optional<TokenId> token = special_.of_byte(byte);
        if (!token) {
            throw Error(ErrorCode::kUnsupported,
                        cat("the vocabulary has '", text, "' as a control token only; remove it"));
        }
        to.push_back(*token);
    }
}

namespace {

void check_utf8(std::string_view text) {
    if (const auto bad = find_invalid_utf8(text)) {
        throw Error(
            ErrorCode::kInvalidArgument,
            cat("the text is not valid UTF-8 at ", place(text, *bad),
                "; convert it, or put U+FFFD for such bytes (flag --replace-invalid-utf8)"));
    }
}

void check_utf8(std::span<const ChatMessage> messages) {
    for (const ChatMessage& m : messages) {
        for (const TextPart& part : m.parts) check_utf8(part.text);
    }
}

[[noreturn]] void refuse_byte(std::string_view text, size_t at) {
    throw Error(ErrorCode::kUnsupported,
                cat("the model has no token for ", hex(text[at]), ", ", place(text, at),
                    " of the text, and would not see it; remove it, or put U+FFFD for such ",
                    "characters (flag --replace-invalid-utf8)"));
}

}  // namespace

/// Writes pieces as libllama would the whole of them: text between two special tokens is
/// tokenized at once, whoever wrote it.
class Tokenizer::Writer {
 public:
    /// `follows_text`: what is written goes on from a text.
    Writer(const Tokenizer& tokenizer, Seams seams, bool follows_text,
           const Regions* regions = nullptr)
        : t_(tokenizer),
          regions_(regions),
          is_separate_(seams == Seams::kSeparate),
          begins_with_space_(t_.begins_with_space_ && !follows_text) {}

    void add(const Piece& piece) {
        if (!piece.is_template) {
            check_utf8(piece.text);
            const bool is_region = regions_ != nullptr && piece.fate.is_context && !piece.fate.keep;
            is_region ? add_document(piece) : add_text(piece.text, piece.fate);
        } else {
            for (const SpecialTokens::Fragment& f : t_.special_.divide(piece.text)) {
                if (f.token) {
                    add_special(f, piece.fate);
                } else {
                    add_text(f.text, piece.fate);
                }
            }
        }
        if (is_separate_) flush(false);
    }

    void add_tokens(const std::vector<TokenId>& tokens, Fate fate) {
        for (const TokenId token : tokens) append(token, fate);
    }

    std::vector<Segment> finish() {
        flush(false);
        return std::move(segments_);
    }

 private:
    struct Part {
        size_t end;  // in text_
        Fate fate;
    };

    void add_text(std::string_view text, Fate fate) {
        if (strips_) text.remove_prefix(text.size() - strip_left(text).size());
        if (text.empty()) return;
        strips_ = false;
        text_ += text;
        parts_.push_back({.end = text_.size(), .fate = fate});
    }

    void add_special(const SpecialTokens::Fragment& f, Fate fate) {
        flush(f.strips_left);
        append(*f.token, fate);
        begins_with_space_ = t_.begins_with_space_;
        strips_ = f.strips_right;
    }

    /// Line breaks that end it are text.
    void add_document(const Piece& piece) {
        const std::string_view stripped = strip(piece.text);
        if (stripped.empty()) return add_text(piece.text, piece.fate);
        const size_t end = piece.text.find_last_not_of("\r\n") + 1;
        flush(false);
        for (Segment& s : regions_->region(piece.text.substr(0, end))) {
            s.is_context = true;
            segments_.push_back(std::move(s));
        }
        is_open_ = false;
        begins_with_space_ = t_.begins_with_space_;
        add_text(piece.text.substr(end), {});
    }

    static std::string_view strip_left(std::string_view text) {
        while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
        return text;
    }

    /// Tokens of the text that was gathered.
    void flush(bool strips_right) {
        while (strips_right && !text_.empty() && is_space(text_.back())) text_.pop_back();
        if (!text_.empty()) append_text();
        text_.clear();
        parts_.clear();
    }

    void append_text() {
        const std::string text = begins_with_space_ ? " " + text_ : text_;
        const size_t n_before = text.size() - text_.size();
        const std::vector<TokenId> tokens = t_.plain(text);
        std::string kept;
        auto part = parts_.begin();
        for (const TokenId token : tokens) {
            kept += t_.piece(token, true);
            while (std::next(part) != parts_.end() && part->end + n_before < kept.size()) ++part;
            append(token, part->fate);
        }
        begins_with_space_ = false;
        // Vocabularies of the other kind fail when they lack a byte, and respell spaces.
        if (llama_vocab_type(t_.vocab_) != LLAMA_VOCAB_TYPE_BPE) return;
        const auto at = static_cast<size_t>(std::ranges::mismatch(text, kept).in1 - text.begin());
        if (at < text.size()) refuse(at - n_before);
    }

    /// Byte `at` of the text that was gathered; said of the part that it belongs to.
    [[noreturn]] void refuse(size_t at) const {
        size_t begin = 0;
        for (const Part& p : parts_) {
            if (at < p.end) {
                refuse_byte(std::string_view(text_).substr(begin, p.end - begin), at - begin);
            }
            begin = p.end;
        }
        refuse_byte(text_, at);
    }

    void append(TokenId token, Fate fate) {
        const bool is_same = is_open_ && fate == fate_;
        is_open_ = true;
        if (!is_same) segments_.push_back({.is_context = fate.is_context, .keep = fate.keep});
        fate_ = fate;
        segments_.back().tokens.push_back(token);
    }

    const Tokenizer& t_;
    const Regions* regions_;
    bool is_separate_;
    bool begins_with_space_;
    bool strips_ = false;  // white space at the beginning of what comes
    std::string text_;
    std::vector<Part> parts_;
    std::vector<Segment> segments_;
    bool is_open_ = false;  // the last segment, to tokens of the same fate
    Fate fate_ = {};
};

Tokenizer::Piece Tokenizer::plain_piece(const TextPart& part) {
    return {.text = part.text, .fate = {.is_context = part.is_context, .keep = part.keep}};
}

std::vector<TokenId> Tokenizer::encode_piece(const Piece& piece) const {
    Writer writer(*this, Seams::kJoined, false);
    writer.add(piece);
    std::vector<Segment> segments = writer.finish();
    return segments.empty() ? std::vector<TokenId>{} : std::move(segments.front().tokens);
}

std::vector<TokenId> Tokenizer::encode(std::string_view text) const {
    return encode_piece({.text = text});
}

std::vector<TokenId> Tokenizer::encode_template(std::string_view text) const {
    return encode_piece({.text = text, .is_template = true});
}

std::string Tokenizer::replace_inexpressible(std::string_view text) const {
    if (llama_vocab_type(vocab_) != LLAMA_VOCAB_TYPE_BPE) return std::string(text);
    const std::string kept = join(plain(text), true);
    std::string out;
    size_t next = 0;
    for (std::string_view character; !text.empty(); text.remove_prefix(character.size())) {
        character = text.substr(0, character_size(text));
        size_t found = 0;
        for (const char byte : character) {
            if (next >= kept.size() || kept[next] != byte) continue;
            ++next;
            ++found;
        }
        out += found == character.size() ? character : "\xEF\xBF\xBD";
    }
    return out;
}

std::vector<TokenId> Tokenizer::beginning() const {
    const TokenId bos = llama_vocab_bos(vocab_);
    if (!llama_vocab_get_add_bos(vocab_) || bos == LLAMA_TOKEN_NULL) return {};
    return {bos};
}

std::string Tokenizer::piece(TokenId token, bool special) const {
    require(token >= 0 && token < n_vocab(), "token ", token, " is outside the vocabulary of ",
            n_vocab());
    std::string out(64, '\0');
    try {
        const auto write = [&] {
            return llama_token_to_piece(vocab_, token, out.data(), static_cast<int32_t>(out.size()),
                                        0, special);
        };
        int32_t n = write();
        if (n < 0) {
            out.resize(static_cast<size_t>(-n));
            n = write();
        }
        out.resize(static_cast<size_t>(std::max(n, 0)));
    } catch (const std::exception& e) {
        throw Error(ErrorCode::kCorrupt, cat("token ", token, " has no text: ", e.what()));
    }
    return out;
}

std::string Tokenizer::bytes(TokenId token) const { return piece(token, false); }

std::string Tokenizer::visible(TokenId token) const { return piece(token, true); }

std::string Tokenizer::join(std::span<const TokenId> tokens, bool special) const {
    std::string out;
    for (const TokenId t : tokens) out += piece(t, special);
    return out;
}

std::string Tokenizer::decode(std::span<const TokenId> tokens) const { return join(tokens, false); }

bool Tokenizer::ends_text(TokenId token) const { return llama_vocab_is_eog(vocab_, token); }

TokenId Tokenizer::end_of_turn() const {
    const TokenId turn = llama_vocab_eot(vocab_);
    return turn != LLAMA_TOKEN_NULL ? turn : llama_vocab_eos(vocab_);
}

int64_t Tokenizer::n_vocab() const { return llama_vocab_n_tokens(vocab_); }

const ChatTemplate& Tokenizer::chat_template() const {
    std::call_once(template_once_, [this] {
        if (chat_template_.empty()) {
            throw Error(ErrorCode::kUnsupported,
                        "the model file has no chat template; name one, or use raw text");
        }
        own_template_ = ChatTemplate::of_text(chat_template_, template_tokens());
    });
    return *own_template_;
}

std::unique_ptr<const ChatTemplate> Tokenizer::chosen_template(const std::string& choice) const {
    return ChatTemplate::from_choice(choice, template_tokens());
}

ChatTemplate::Tokens Tokenizer::template_tokens() const {
    const auto letters = [this](TokenId t) { return t == LLAMA_TOKEN_NULL ? "" : piece(t, true); };
    return {.bos = letters(llama_vocab_bos(vocab_)), .eos = letters(llama_vocab_eos(vocab_))};
}

/// Fates are the messages' parts'; what stands before the first message that is not the system's
/// is kept.
std::vector<Tokenizer::Piece> Tokenizer::pieces_of(std::span<const RenderedPiece> rendered,
                                                   std::span<const ChatMessage> messages) const {
    std::vector<Piece> pieces;
    MessageFinder finder(messages);
    bool is_system = true;
    for (const RenderedPiece& r : rendered) {
        std::string_view text = r.text;
        if (!r.is_message) {
            pieces.push_back({.text = text, .is_template = true, .fate = {.keep = is_system}});
            continue;
        }
        while (!text.empty()) {
            const auto place = finder.find(text);
            if (!place) {
                is_system = false;
                pieces.push_back({.text = text});
                break;
            }
            const ChatMessage& message = messages[place->message];
            is_system = is_system && message.role == "system";
            size_t begin = 0;
            for (const TextPart& part : message.parts) {
                const size_t end = begin + part.text.size();
                const size_t from = std::max(begin, place->begin);
                const size_t to = std::min(end, place->end);
                if (from < to) {
                    pieces.push_back(
                        {.text = text.substr(0, to - from),
                         .fate = {.is_context = part.is_context, .keep = part.keep || is_system}});
                    text.remove_prefix(to - from);
                }
                begin = end;
            }
        }
    }
    if (const auto missing = finder.missing()) {
        throw Error(
            ErrorCode::kUnsupported,
            cat("the chat template has no place for message ", *missing + 1, ", of the ",
                messages[*missing].role, "; leave it out, name another template, or use raw text"));
    }
    return pieces;
}

std::vector<Segment> Tokenizer::encode_chat(std::span<const ChatMessage> messages,
                                            const ChatTemplate& chat_template, Seams seams,
                                            const Regions* regions) const {
    return encode_chat(TemplateInput{.messages = messages}, chat_template, seams, regions);
}

std::vector<Segment> Tokenizer::encode_chat(const TemplateInput& input,
                                            const ChatTemplate& chat_template, Seams seams,
                                            const Regions* regions) const {
    check_utf8(input.messages);
    const std::vector<RenderedPiece> rendered = chat_template.render(input);
    size_t n_bytes = 0;
    for (const RenderedPiece& p : rendered) n_bytes += p.text.size();
    require(n_bytes <= input.most_bytes, "the chat template wrote ", n_bytes, " bytes; at most ",
            input.most_bytes, " are read");
    Writer writer(*this, seams, false, regions);
    for (const Piece& piece : pieces_of(rendered, input.messages)) writer.add(piece);
    std::vector<Segment> segments = writer.finish();
    if (segments.empty()) {
        throw Error(ErrorCode::kUnsupported,
                    "the chat template wrote nothing; name another one, or use raw text");
    }
    // Some templates write the beginning themselves.
    const std::vector<TokenId> start = beginning();
    if (segments.front().has_rows()) segments.insert(segments.begin(), Segment{});
    std::vector<TokenId>& first = segments.front().tokens;
    if (!start.empty() && (first.empty() || first.front() != start.front())) {
        first.insert(first.begin(), start.begin(), start.end());
    }
    return segments;
}

std::vector<Segment> Tokenizer::encode_chat(std::span<const ChatMessage> messages) const {
    return encode_chat(messages, chat_template());
}

std::vector<Segment> Tokenizer::encode_next_turn(const ChatMessage& message,
                                                 const ChatTemplate& chat_template,
                                                 const Regions* regions) const {
    check_utf8(std::span(&message, 1));
    std::string answer = "\x01";  // something that the message does not say
    while (text_of(message).find(answer) != std::string::npos) answer += '\x01';
    const std::vector<ChatMessage> messages = {
        {"user", {{"\x02"}}}, {"assistant", {{answer}}}, message};
    std::vector<RenderedPiece> rendered = chat_template.render({.messages = messages});
    const auto at = std::ranges::find_if(rendered, [&answer](const RenderedPiece& p) {
        return p.is_message && p.text.find(answer) != std::string::npos;
    });
    if (at == rendered.end()) {
        throw Error(ErrorCode::kUnsupported,
                    "this model's chat template has no place for an answer that others follow; "
                    "name another template, or use raw text");
    }
    at->text.erase(0, at->text.find(answer) + answer.size());
    rendered.erase(rendered.begin(), at);
    Writer writer(*this, Seams::kJoined, true, regions);
    for (Piece& piece : pieces_of(rendered, std::span(messages).last(1))) {
        if (piece.is_template) piece.fate.keep = false;
        writer.add(piece);
    }
    return writer.finish();
}

std::vector<Segment> Tokenizer::encode_next_turn(const ChatMessage& message) const {
    return encode_next_turn(message, chat_template());
}

std::vector<Segment> Tokenizer::encode_raw(std::span<const TextPart> parts, Seams seams,
                                           const Regions* regions) const {
    Writer writer(*this, seams, false, regions);
    writer.add_tokens(beginning(), {});
    for (const TextPart& p : parts) writer.add(plain_piece(p));
    return writer.finish();
}

std::vector<Segment> Tokenizer::encode_more(std::span<const TextPart> parts,
                                            const Regions* regions) const {
    std::vector<Segment> all;
    for (const TextPart& p : parts) {
        Writer writer(*this, Seams::kJoined, false, regions);
        writer.add(plain_piece(p));
        for (Segment& s : writer.finish()) all.push_back(std::move(s));
    }
    return all;
}

std::string TextStream::push(TokenId token) {
    held_ += tokenizer_.bytes(token);
    const size_t keep = unfinished_utf8(held_);
    std::string out = replace_invalid_utf8(std::string_view(held_).substr(0, held_.size() - keep));
    held_.erase(0, held_.size() - keep);
    return out;
}

std::string TextStream::finish() {
    std::string out = replace_invalid_utf8(held_);
    held_.clear();
    return out;
}

}  // namespace palimpsest
