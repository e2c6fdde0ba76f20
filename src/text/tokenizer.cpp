#include "text/tokenizer.h"

#include <algorithm>
#include <cerrno>
#include <exception>
#include <limits>
#include <mutex>
#include <new>
#include <unordered_set>

#include "core/error.h"
#include "text/utf8.h"

namespace palimpsest {

namespace {

/// libllama's last complaint on this thread: it logs the reason of a failed load, and returns none.
std::string& last_complaint() {
    thread_local std::string text;
    return text;
}

void keep_complaint(ggml_log_level level, const char* text, void* /*unused*/) {
    if (level != GGML_LOG_LEVEL_ERROR || text == nullptr) return;
    last_complaint() = text;
    while (!last_complaint().empty() && last_complaint().back() == '\n') {
        last_complaint().pop_back();
    }
}

/// libllama prints to stderr unless told otherwise, and a library must not.
void quieten() {
    static std::once_flag once;
    std::call_once(once, [] { llama_log_set(keep_complaint, nullptr); });
}

[[noreturn]] void bad_vocabulary(const std::string& what) {
    throw Error(ErrorCode::kCorrupt, "the vocabulary is damaged: " + what);
}

/// The kinds that our families use. Of others, libllama asserts more than can be checked here.
void check_kind(std::string_view kind) {
    if (kind == "llama" || kind == "gpt2") return;
    throw Error(ErrorCode::kUnsupported, cat("vocabularies of kind '", kind,
                                             "' are not supported; there are: llama, gpt2, none"));
}

/// What libllama asserts, and would end the process for, is checked here first.
void check_vocabulary(const GgufFile& file) {
    const auto tokens = file.texts("tokenizer.ggml.tokens");
    if (!tokens || tokens->empty()) bad_vocabulary("it has no tokens");
    if (tokens->size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
        bad_vocabulary(cat("it has ", tokens->size(), " tokens"));
    }
    std::unordered_set<std::string> seen;
    seen.reserve(tokens->size());
    for (size_t i = 0; i < tokens->size(); ++i) {
        // libllama gives empty tokens this name.
        const std::string name =
            (*tokens)[i].empty() ? cat("[EMPTY_", i, "]") : std::string((*tokens)[i]);
        if (!seen.insert(name).second) bad_vocabulary(cat("token ", i, " appears twice"));
    }
    const auto same_length = [&](std::string_view key) {
        const GgufValue* v = file.find(key);
        if (v != nullptr && (v->type != GGUF_TYPE_ARRAY || v->count < tokens->size())) {
            bad_vocabulary(cat("'", key, "' does not have one element a token"));
        }
    };
    same_length("tokenizer.ggml.scores");
    same_length("tokenizer.ggml.token_type");
}

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

/// Bytes of the character that `text`, which is UTF-8, begins with.
size_t character_length(std::string_view text) {
    size_t n = 1;
    while (n < text.size() && (static_cast<unsigned char>(text[n]) & 0xC0U) == 0x80) ++n;
    return n;
}

std::string marker(size_t message) { return cat("\x01", message, "\x02"); }

/// Adds tokens to the last segment if it is of the same kind, else as a new one.
/// What becomes of a part of the prompt.
struct Fate {
    bool is_context = false;
    bool keep = false;
};

void append(std::vector<Segment>& to, const std::vector<TokenId>& tokens, Fate fate) {
    if (tokens.empty()) return;
    if (to.empty() || to.back().is_context != fate.is_context || to.back().keep != fate.keep) {
        to.push_back({.is_context = fate.is_context, .keep = fate.keep});
    }
    to.back().tokens.insert(to.back().tokens.end(), tokens.begin(), tokens.end());
}

llama_model_ptr load_vocabulary(const std::string& path) {
    quieten();
    last_complaint().clear();
    llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    llama_model_ptr model;
    errno = 0;
    try {
        model.reset(llama_model_load_from_file(path.c_str(), params));
    } catch (const std::exception& e) {
        last_complaint() = e.what();
    }
    if (!model && errno == ENOMEM) throw std::bad_alloc();  // it says so in no other way
    if (!model) {
        throw Error(ErrorCode::kUnsupported,
                    cat("libllama cannot use the vocabulary of '", path,
                        "': ", last_complaint().empty() ? "no reason given" : last_complaint()));
    }
    return model;
}

std::string_view type_name(enum llama_vocab_type type) {
    switch (type) {
        case LLAMA_VOCAB_TYPE_SPM:
            return "SPM";
        case LLAMA_VOCAB_TYPE_BPE:
            return "BPE";
        case LLAMA_VOCAB_TYPE_WPM:
            return "WPM";
        case LLAMA_VOCAB_TYPE_UGM:
            return "UGM";
        default:
            return "other";
    }
}

}  // namespace

Tokenizer::Tokenizer(llama_model_ptr model)
    : model_(std::move(model)), vocab_(llama_model_get_vocab(model_.get())) {}

std::unique_ptr<Tokenizer> Tokenizer::load(const std::string& path, const GgufFile& file) {
    const auto kind = file.text("tokenizer.ggml.model");
    if (!kind || *kind == "none") return nullptr;
    check_kind(*kind);
    check_vocabulary(file);
    std::unique_ptr<Tokenizer> t(new Tokenizer(load_vocabulary(path)));
    t->chat_template_ = file.text("tokenizer.chat_template").value_or("");
    t->kind_ = cat(type_name(llama_vocab_type(t->vocab_)), " (", *kind);
    if (const auto pre = file.text("tokenizer.ggml.pre")) t->kind_ += cat(" / ", *pre);
    t->kind_ += ")";
    return t;
}

std::vector<TokenId> Tokenizer::tokenize(std::string_view text, bool parse_special) const {
    require(text.size() < static_cast<size_t>(std::numeric_limits<int32_t>::max()), "a text of ",
            text.size(), " bytes is too long to tokenize at once; the limit is 2 GiB");
    // A token has at least one byte, but a leading space may be added.
    std::vector<TokenId> tokens(text.size() + 2);
    int32_t n = 0;
    try {
        n = llama_tokenize(vocab_, text.data(), static_cast<int32_t>(text.size()), tokens.data(),
                           static_cast<int32_t>(tokens.size()), false, parse_special);
        if (n < 0 && n != std::numeric_limits<int32_t>::min()) {
            tokens.resize(static_cast<size_t>(-n));
            n = llama_tokenize(vocab_, text.data(), static_cast<int32_t>(text.size()),
                               tokens.data(), static_cast<int32_t>(tokens.size()), false,
                               parse_special);
        }
    } catch (const std::exception& e) {
        throw Error(ErrorCode::kCorrupt,
                    cat("the vocabulary cannot express this text: ", e.what()));
    }
    check(n >= 0, "tokenization did not fit twice");
    tokens.resize(static_cast<size_t>(n));
    return tokens;
}

void Tokenizer::check_nothing_lost(std::string_view text, std::span<const TokenId> tokens,
                                   bool special) const {
    // Vocabularies of the other kind fail when they lack a byte, and respell spaces.
    if (llama_vocab_type(vocab_) != LLAMA_VOCAB_TYPE_BPE) return;
    const std::string kept = join(tokens, special);
    const auto at = static_cast<size_t>(std::ranges::mismatch(text, kept).in1 - text.begin());
    if (at == text.size()) return;
    throw Error(ErrorCode::kUnsupported,
                cat("the model has no token for ", hex(text[at]), ", ", place(text, at),
                    " of the text, and would not see it; remove it, or put U+FFFD for such ",
                    "characters (flag --replace-invalid-utf8)"));
}

std::vector<TokenId> Tokenizer::encode(std::string_view text) const {
    if (const auto bad = find_invalid_utf8(text)) {
        throw Error(
            ErrorCode::kInvalidArgument,
            cat("the text is not valid UTF-8 at ", place(text, *bad),
                "; convert it, or put U+FFFD for such bytes (flag --replace-invalid-utf8)"));
    }
    std::vector<TokenId> tokens = tokenize(text, false);
    check_nothing_lost(text, tokens, false);
    return tokens;
}

std::string Tokenizer::replace_inexpressible(std::string_view text) const {
    if (llama_vocab_type(vocab_) != LLAMA_VOCAB_TYPE_BPE) return std::string(text);
    const std::string kept = join(tokenize(text, false), false);
    std::string out;
    for (size_t next = 0; !text.empty();) {
        const std::string_view character = text.substr(0, character_length(text));
        size_t found = 0;
        for (const char byte : character) {
            if (next >= kept.size() || kept[next] != byte) continue;
            ++next;
            ++found;
        }
        out += found == character.size() ? character : "\xEF\xBF\xBD";
        text.remove_prefix(character.size());
    }
    return out;
}

std::vector<TokenId> Tokenizer::encode_template(std::string_view text) const {
    std::vector<TokenId> tokens = tokenize(text, true);
    check_nothing_lost(text, tokens, true);
    return tokens;
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

int64_t Tokenizer::n_vocab() const { return llama_vocab_n_tokens(vocab_); }

void find_chat_template(std::string_view name) {
    std::vector<const char*> names(static_cast<size_t>(llama_chat_builtin_templates(nullptr, 0)));
    llama_chat_builtin_templates(names.data(), names.size());
    std::string all;
    for (const char* known : names) {
        if (name == known) return;
        all += cat(all.empty() ? "" : ", ", known);
    }
    throw Error(ErrorCode::kInvalidArgument,
                cat("no chat template is called '", name, "'; there are: ", all));
}

std::string Tokenizer::render(std::span<const ChatMessage> messages,
                              std::string_view chat_template) const {
    const std::string used(chat_template.empty() ? std::string_view(chat_template_)
                                                 : chat_template);
    if (used.empty()) {
        throw Error(ErrorCode::kUnsupported,
                    "the model file has no chat template; name one, or use raw text");
    }
    std::vector<std::string> markers;
    std::vector<llama_chat_message> chat;
    for (size_t i = 0; i < messages.size(); ++i) markers.push_back(marker(i));
    for (size_t i = 0; i < messages.size(); ++i) {
        chat.push_back({messages[i].role.c_str(), markers[i].c_str()});
    }
    std::string out(512, '\0');
    const auto apply = [&] {
        return llama_chat_apply_template(used.c_str(), chat.data(), chat.size(), true, out.data(),
                                         static_cast<int32_t>(out.size()));
    };
    int32_t n = apply();
    if (n > static_cast<int32_t>(out.size())) {
        out.resize(static_cast<size_t>(n));
        n = apply();
    }
    if (n < 0) {
        throw Error(ErrorCode::kUnsupported,
                    "libllama does not know this model's chat template; name one, or use raw text");
    }
    out.resize(static_cast<size_t>(n));
    return out;
}

void Tokenizer::append_parts(std::vector<Segment>& to, std::span<const TextPart> parts,
                             bool keep) const {
    for (const TextPart& part : parts) {
        append(to, encode(part.text), {.is_context = part.is_context, .keep = part.keep || keep});
    }
}

std::vector<Segment> Tokenizer::encode_rendered(std::string_view rendered,
                                                std::span<const ChatMessage> messages,
                                                size_t first) const {
    std::vector<Segment> segments;
    bool is_system = first == 0;  // up to the first message of somebody else
    for (size_t i = first; i < messages.size(); ++i) {
        const std::string mark = marker(i);
        const size_t at = rendered.find(mark);
        if (at == std::string_view::npos) {
            throw Error(
                ErrorCode::kUnsupported,
                cat("this model's chat template has no place for message ", i + 1, ", of the ",
                    messages[i].role, "; leave it out, name another template, or use raw text"));
        }
        append(segments, encode_template(rendered.substr(0, at)), {.keep = is_system});
        is_system = is_system && messages[i].role == "system";
        append_parts(segments, messages[i].parts, is_system);
        rendered.remove_prefix(at + mark.size());
    }
    append(segments, encode_template(rendered), {});
    return segments;
}

std::vector<Segment> Tokenizer::encode_chat(std::span<const ChatMessage> messages,
                                            std::string_view chat_template) const {
    std::vector<Segment> segments = encode_rendered(render(messages, chat_template), messages, 0);
    const std::vector<TokenId> start = beginning();
    check(!segments.empty(), "a chat template wrote nothing");
    std::vector<TokenId>& first = segments.front().tokens;
    // Some templates write the beginning themselves.
    if (!start.empty() && (first.empty() || first.front() != start.front())) {
        first.insert(first.begin(), start.begin(), start.end());
    }
    return segments;
}

std::vector<Segment> Tokenizer::encode_next_turn(const ChatMessage& message,
                                                 std::string_view chat_template) const {
    const std::vector<ChatMessage> messages = {{"user", {}}, {"assistant", {}}, message};
    const std::string rendered = render(messages, chat_template);
    const std::string answer = marker(1);
    const size_t at = rendered.find(answer);
    if (at == std::string::npos) {
        throw Error(ErrorCode::kUnsupported,
                    "this model's chat template has no place for an answer that others follow; "
                    "name another template, or use raw text");
    }
    return encode_rendered(std::string_view(rendered).substr(at + answer.size()), messages, 2);
}

std::vector<Segment> Tokenizer::encode_raw(std::span<const TextPart> parts) const {
    std::vector<Segment> segments;
    append(segments, beginning(), {});
    append_parts(segments, parts, false);
    return segments;
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
