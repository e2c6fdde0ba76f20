#include "compress/convert/tokenizer_files.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "text/input_files.h"
#include "text/json_text.h"

namespace palimpsest {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr size_t kMostTokens = size_t{1} << 22;

/// How Qwen 2 and 3 cut a text into words before merging; libllama calls it "qwen2".
constexpr std::string_view kQwenWords =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

// libllama's numbers for kinds of tokens.
constexpr int32_t kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5;

[[noreturn]] void damaged(const std::string& path, const std::string& why) {
    throw Error(ErrorCode::kCorrupt, cat("'", path, "' ", why));
}

json read_object(const std::string& path) {
    json value = read_json_file(path);
    if (!value.is_object()) damaged(path, "is no JSON object, or nests too deeply");
    return value;
}

const json& member(const json& object, const char* name) {
    static const json kNone;
    const auto found = object.is_object() ? object.find(name) : object.end();
    return object.is_object() && found != object.end() ? *found : kNone;
}

/// "<|im_end|>", or {"content": "<|im_end|>"}.
std::string token_text(const json& value) {
    const json& text = value.is_object() ? member(value, "content") : value;
    return text.is_string() ? text.get<std::string>() : "";
}

void set_token(TokenizerFiles& t, const json& id, const std::string& text,
               const std::string& path) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= kMostTokens) {
        damaged(path, cat("gives token '", text, "' the id ", brief_json(id)));
    }
    const auto place = id.get<size_t>();
    if (place >= t.tokens.size()) t.tokens.resize(place + 1);
    if (!t.tokens[place].empty() && t.tokens[place] != text) {
        damaged(path, cat("gives '", t.tokens[place], "' and '", text, "' the same id, ", place));
    }
    t.tokens[place] = text;
}

/// "a b", or ["a", "b"].
std::string merge_text(const json& merge, const std::string& path) {
    if (merge.is_string()) return merge.get<std::string>();
    if (!merge.is_array() || merge.size() != 2 || !merge[0].is_string() || !merge[1].is_string()) {
        damaged(path, cat("has ", brief_json(merge), " as a merge"));
    }
    return merge[0].get<std::string>() + " " + merge[1].get<std::string>();
}

bool holds_text(const json& value, std::string_view text) {
    if (value.is_string()) return value.get_ref<const std::string&>() == text;
    return value.is_structured() &&
           std::ranges::any_of(value, [text](const json& v) { return holds_text(v, text); });
}

void read_vocabulary(const std::string& path, TokenizerFiles& t) {
    const json all = read_object(path);
    const json& model = member(all, "model");
    if (token_text(member(model, "type")) != "BPE" || !member(model, "vocab").is_object() ||
        !member(model, "merges").is_array()) {
        throw Error(ErrorCode::kUnsupported, cat("'", path, "' is no BPE vocabulary with merges"));
    }
    if (!holds_text(member(all, "pre_tokenizer"), kQwenWords)) {
        throw Error(ErrorCode::kUnsupported,
                    cat("'", path, "' cuts texts into words otherwise than Qwen 2 and 3 do, which ",
                        "is all that can be converted here"));
    }
    for (const auto& [text, id] : member(model, "vocab").items()) set_token(t, id, text, path);
    for (const json& merge : member(model, "merges")) t.merges.push_back(merge_text(merge, path));
    for (const json& added : member(all, "added_tokens")) {
        const std::string text = token_text(added);
        set_token(t, member(added, "id"), text, path);
        t.added.push_back({.id = member(added, "id").get<TokenId>(),
                           .text = text,
                           .is_special = member(added, "special") == true});
    }
}

/// A text, or a list of named ones.
std::string template_of(const json& value) {
    if (value.is_string()) return value.get<std::string>();
    for (const json& one : value.is_array() ? value : json::array()) {
        if (token_text(member(one, "name")) == "default")
            return token_text(member(one, "template"));
    }
    return "";
}

void read_config(const fs::path& folder, TokenizerFiles& t) {
    std::error_code error;
    if (const fs::path path = folder / "tokenizer_config.json"; fs::exists(path, error)) {
        const json config = read_object(path.string());
        t.eos = token_text(member(config, "eos_token"));
        t.pad = token_text(member(config, "pad_token"));
        t.chat_template = template_of(member(config, "chat_template"));
    }
    if (const fs::path path = folder / "chat_template.jinja"; fs::exists(path, error)) {
        t.chat_template = read_text_file(path.string());
    }
}

}  // namespace

std::optional<TokenId> TokenizerFiles::added_token(std::string_view text) const {
    const auto found = std::ranges::find(added, text, &Added::text);
    return found == added.end() ? std::nullopt : std::optional(found->id);
}

void TokenizerFiles::describe(GgufWriter& file, int64_t n_rows) const {
    if (std::ssize(tokens) > n_rows) {
        throw Error(ErrorCode::kCorrupt, cat("the vocabulary has ", tokens.size(),
                                             " tokens, and the token table ", n_rows, " rows"));
    }
    std::vector<std::string> texts = tokens;
    texts.resize(static_cast<size_t>(n_rows));
    std::vector<int32_t> kinds(texts.size(), kNormal);
    for (size_t i = 0; i < texts.size(); ++i) {
        if (!texts[i].empty()) continue;
        texts[i] = cat("[PAD", i, "]");  // rows of the table that no token has
        kinds[i] = kUnused;
    }
    for (const Added& a : added) {
        kinds[static_cast<size_t>(a.id)] = a.is_special ? kControl : kUserDefined;
    }
    file.set_text("tokenizer.ggml.model", "gpt2");
    file.set_text("tokenizer.ggml.pre", "qwen2");
    file.set_texts("tokenizer.ggml.tokens", texts);
    file.set_integers("tokenizer.ggml.token_type", kinds);
    file.set_texts("tokenizer.ggml.merges", merges);
    const auto set = [&](const char* key, const std::string& text) {
        const auto id = added_token(text);
        if (id) file.set_count(key, static_cast<uint32_t>(*id));
    };
    set("tokenizer.ggml.eos_token_id", eos);
    set("tokenizer.ggml.padding_token_id", pad);
    file.set_boolean("tokenizer.ggml.add_bos_token", false);
    file.set_boolean("tokenizer.ggml.add_eos_token", false);
    if (!chat_template.empty()) file.set_text("tokenizer.chat_template", chat_template);
}

std::optional<TokenizerFiles> read_tokenizer_files(const std::string& folder) {
    const fs::path path = fs::path(folder) / "tokenizer.json";
    std::error_code error;
    if (!fs::exists(path, error)) {
        if (!fs::exists(fs::path(folder) / "vocab.json", error)) return std::nullopt;
        throw Error(ErrorCode::kUnsupported,
                    cat("'", folder, "' has its vocabulary in vocab.json; save the tokenizer as ",
                        "tokenizer.json first"));
    }
    TokenizerFiles t;
    read_vocabulary(path.string(), t);
    read_config(folder, t);
    return t;
}

}  // namespace palimpsest
