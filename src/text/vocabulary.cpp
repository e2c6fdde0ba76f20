#include "text/vocabulary.h"

#include <ggml-cpp.h>

#include <array>
#include <cerrno>
#include <exception>
#include <limits>
#include <mutex>
#include <new>
#include <string_view>
#include <unordered_set>

#include "core/error.h"

namespace palimpsest {

namespace {

/// libllama's first complaint on this thread: it logs the reason of a failed load, then that the
/// load failed, and returns neither.
std::string& first_complaint() {
    thread_local std::string text;
    return text;
}

void keep_complaint(ggml_log_level level, const char* text, void* /*unused*/) {
    if (level != GGML_LOG_LEVEL_ERROR || text == nullptr || !first_complaint().empty()) return;
    // "FUNCTION: error loading model: REASON"
    constexpr std::string_view kBefore = "error loading model: ";
    std::string_view said = text;
    if (const size_t at = said.find(kBefore); at != std::string_view::npos) {
        said.remove_prefix(at + kBefore.size());
    }
    while (!said.empty() && said.back() == '\n') said.remove_suffix(1);
    first_complaint() = said;
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
        // libllama reads them up to a zero byte, and gives empty ones this name.
        std::string name((*tokens)[i].substr(0, (*tokens)[i].find('\0')));
        if (name.empty()) name = cat("[EMPTY_", i, "]");
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

constexpr std::string_view kPrefixKey = "tokenizer.ggml.add_space_prefix";

/// Of a split file the first part has the vocabulary, and libllama need not find the others.
llama_model* load_part(const std::string& path, const llama_model_params& params) {
    const gguf_context_ptr keys(
        gguf_init_from_file(path.c_str(), {.no_alloc = true, .ctx = nullptr}));
    if (!keys) return nullptr;
    const auto no_data = [](ggml_tensor* /*tensor*/, void* /*unused*/) {};
    return llama_model_init_from_user(keys.get(), no_data, nullptr, params);
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

bool has_vocabulary(const GgufFile& file) {
    const auto kind = file.text("tokenizer.ggml.model");
    return kind && *kind != "none";
}

llama_model_ptr load_vocabulary(const std::string& path, const GgufFile& file) {
    check_kind(*file.text("tokenizer.ggml.model"));
    check_vocabulary(file);
    quieten();
    first_complaint().clear();
    llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    // Where spaces belong is said by the tokenizer, which knows what stands before a text.
    std::array<llama_model_kv_override, 2> overrides{};
    overrides[0].tag = LLAMA_KV_OVERRIDE_TYPE_BOOL;
    kPrefixKey.copy(overrides[0].key, sizeof overrides[0].key - 1);
    params.kv_overrides = overrides.data();
    llama_model_ptr model;
    errno = 0;
    try {
        model.reset(file.mappings().size() > 1 ? load_part(path, params)
                                               : llama_model_load_from_file(path.c_str(), params));
    } catch (const std::exception& e) {
        first_complaint() = e.what();
    }
    if (!model && errno == ENOMEM) throw std::bad_alloc();  // it says so in no other way
    if (!model) {
        throw Error(ErrorCode::kUnsupported,
                    cat("libllama cannot use the vocabulary of '", path,
                        "': ", first_complaint().empty() ? "no reason given" : first_complaint()));
    }
    return model;
}

bool begins_with_space(const llama_vocab* vocab, const GgufFile& file) {
    return llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_SPM &&
           file.boolean(kPrefixKey).value_or(true);
}

std::string vocabulary_kind(const llama_vocab* vocab, const GgufFile& file) {
    std::string kind =
        cat(type_name(llama_vocab_type(vocab)), " (", *file.text("tokenizer.ggml.model"));
    if (const auto pre = file.text("tokenizer.ggml.pre")) kind += cat(" / ", *pre);
    return kind + ")";
}

}  // namespace palimpsest
