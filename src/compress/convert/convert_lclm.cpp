#include "compress/convert/convert_lclm.h"

#include <ggml.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "compress/convert/safetensors.h"
#include "compress/convert/tokenizer_files.h"
#include "core/error.h"
#include "core/fingerprint.h"
#include "core/finite.h"
#include "core/gguf_writer.h"
#include "text/input_files.h"
#include "text/json_text.h"

namespace palimpsest {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr size_t kAtOnce = size_t{1} << 20;  // numbers
constexpr int64_t kMost = int64_t{1} << 28;

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
    throw Error(ErrorCode::kUnsupported, cat("'", path, "' ", why));
}

/// A file of settings. A key may have had another name before.
class Settings {
 public:
    explicit Settings(std::string path) : path_(std::move(path)), all_(read_json_file(path_)) {
        if (!all_.is_object()) {
            throw Error(ErrorCode::kCorrupt, cat("'", path_, "' is no JSON object"));
        }
    }

    [[nodiscard]] const std::string& path() const { return path_; }
    [[nodiscard]] const json* find(std::string_view name, std::string_view old = {}) const {
        for (const std::string_view key : {name, old}) {
            const auto found = key.empty() ? all_.end() : all_.find(key);
            if (found != all_.end() && !found->is_null()) return &*found;
        }
        return nullptr;
    }
    [[nodiscard]] int64_t count(std::string_view name, std::string_view old = {},
                                std::optional<int64_t> fallback = {}) const {
        const json* value = find(name, old);
        if (value == nullptr && fallback) return *fallback;
        if (value == nullptr) missing(name);
        if (!value->is_number_integer() || *value < 0 || *value > kMost) bad(name, *value);
        return value->get<int64_t>();
    }
    [[nodiscard]] double number(std::string_view name, double fallback) const {
        const json* value = find(name);
        if (value == nullptr) return fallback;
        if (!value->is_number() || !(value->get<double>() > 0)) bad(name, *value);
        return value->get<double>();
    }
    [[nodiscard]] std::string text(std::string_view name, std::string_view old = {},
                                   std::string_view fallback = {}) const {
        const json* value = find(name, old);
        if (value == nullptr) return std::string(fallback);
        if (!value->is_string()) bad(name, *value);
        return value->get<std::string>();
    }
    [[nodiscard]] bool is_set(std::string_view name) const {
        const json* value = find(name);
        return value != nullptr && value->is_boolean() && value->get<bool>();
    }

 private:
    [[noreturn]] void missing(std::string_view name) const {
        throw Error(ErrorCode::kNotFound, cat("'", path_, "' has no '", name, "'"));
    }
    [[noreturn]] void bad(std::string_view name, const json& value) const {
        throw Error(ErrorCode::kCorrupt,
                    cat("'", path_, "' says that '", name, "' is ", brief_json(value)));
    }

    std::string path_;
    json all_;
};

/// The first of these that is there.
fs::path part_of(const fs::path& folder, std::initializer_list<const char*> names) {
    std::error_code error;
    for (const char* name : names) {
        if (fs::exists(folder / name, error)) return folder / name;
    }
    throw Error(ErrorCode::kNotFound, cat("'", folder.string(), "' has no '", *names.begin(),
                                          "'; is it a checkpoint of latent context?"));
}

// ---- a model ------------------------------------------------------------------------------------

/// Of a Qwen 3 model.
struct QwenSizes {
    int64_t n_layer, n_embd, n_ff, n_head, n_head_kv, d_head, n_vocab, n_ctx;
    float rope_base, epsilon;
};

double rope_base(const Settings& s) {
    constexpr double kUsual = 10000;
    if (const json* newer = s.find("rope_parameters")) {
        if (newer->is_object() && newer->value("rope_type", "default") != "default") {
            refuse(s.path(), "scales its rotation, which cannot be converted here");
        }
        const auto base = newer->is_object() ? newer->find("rope_theta") : newer->end();
        if (newer->is_object() && base != newer->end() && base->is_number()) {
            return base->get<double>();
        }
    }
    return s.number("rope_theta", kUsual);
}

QwenSizes qwen_sizes(const Settings& s) {
    if (s.text("model_type") != "qwen3") {
        refuse(s.path(), cat("is of a model of type '", s.text("model_type"), "', not 'qwen3'"));
    }
    if (s.find("rope_scaling") != nullptr) {
        refuse(s.path(), "scales its rotation ('rope_scaling'), which cannot be converted here");
    }
    if (s.is_set("use_sliding_window")) refuse(s.path(), "has sliding windows");
    if (s.text("hidden_act", {}, "silu") != "silu") {
        refuse(s.path(), cat("gates by '", s.text("hidden_act"), "', not 'silu'"));
    }
    QwenSizes c = {.n_layer = s.count("num_hidden_layers"),
                   .n_embd = s.count("hidden_size"),
                   .n_ff = s.count("intermediate_size"),
                   .n_head = s.count("num_attention_heads"),
                   .n_head_kv = 0,
                   .d_head = 0,
                   .n_vocab = s.count("vocab_size"),
                   .n_ctx = s.count("max_position_embeddings"),
                   .rope_base = static_cast<float>(rope_base(s)),
                   .epsilon = static_cast<float>(s.number("rms_norm_eps", 1e-6))};
    if (c.n_layer < 1 || c.n_embd < 1 || c.n_head < 1) {
        throw Error(ErrorCode::kCorrupt,
                    cat("'", s.path(), "' has ", c.n_layer, " layers of width ", c.n_embd, " with ",
                        c.n_head, " heads"));
    }
    c.n_head_kv = s.count("num_key_value_heads", {}, c.n_head);
    c.d_head = s.count("head_dim", {}, c.n_embd / c.n_head);
    return c;
}

/// What a block's tensors are called, there and here.
struct Renamed {
    std::string_view from, to;
};
constexpr auto kBlock = std::to_array<Renamed>({{"self_attn.q_proj", "attn_q"},
                                                {"self_attn.k_proj", "attn_k"},
                                                {"self_attn.v_proj", "attn_v"},
                                                {"self_attn.o_proj", "attn_output"},
                                                {"self_attn.q_norm", "attn_q_norm"},
                                                {"self_attn.k_norm", "attn_k_norm"},
                                                {"mlp.gate_proj", "ffn_gate"},
                                                {"mlp.up_proj", "ffn_up"},
                                                {"mlp.down_proj", "ffn_down"},
                                                {"input_layernorm", "attn_norm"},
                                                {"post_attention_layernorm", "ffn_norm"}});

/// Shape in ggml's order of a tensor of one or two dimensions.
Shape ggml_shape(const CheckpointTensor& t, const std::string& name) {
    if (t.shape.size() == 1) return {t.shape[0], 1, 1, 1};
    if (t.shape.size() == 2) return {t.shape[1], t.shape[0], 1, 1};
    throw Error(ErrorCode::kCorrupt,
                cat("tensor '", name, "' has ", t.shape.size(), " dimensions"));
}

/// Copies tensors of a checkpoint into a GGUF file, a few rows at a time.
class Copier {
 public:
    Copier(const Checkpoint& from, GgufWriter& to, ggml_type type,
           std::function<void(size_t)> on_read)
        : from_(from), to_(to), type_(type), on_read_(std::move(on_read)) {}

    void copy(const std::string& from, const std::string& to) {
        const CheckpointTensor& t = from_.tensor(from);
        used_.insert(from);
        const Shape shape = ggml_shape(t, from);
        const ggml_type type = stored_type(type_, shape);
        to_.add_made(to, shape, type, [this, &t, from, type](const GgufWriter::Put& put) {
            write(t, from, type, put);
            on_read_(t.data.size());
        });
    }
    void copy_if_there(const std::string& from, const std::string& to) {
        if (from_.has(from)) copy(from, to);
    }
    void copy_block(const std::string& from, const std::string& to) {
        for (const auto& [theirs, ours] : kBlock) {
            copy(cat(from, theirs, ".weight"), cat(to, ours, ".weight"));
            copy_if_there(cat(from, theirs, ".bias"), cat(to, ours, ".bias"));
        }
    }
    /// Throws kUnsupported for a tensor that nobody copied.
    void check_all_used(const std::string& path) const {
        for (const auto& [name, tensor] : from_.tensors()) {
            if (!used_.contains(name)) {
                refuse(path, cat("has tensor '", name, "', which has no place in the conversion"));
            }
        }
    }

 private:
    static void check_numbers(std::span<const float> numbers, ggml_type type,
                              const std::string& name, int64_t row) {
        constexpr float kMostF16 = 65504;
        if (!is_finite(numbers)) {
            throw Error(ErrorCode::kCorrupt, cat("tensor '", name, "' holds a value that is not ",
                                                 "a number, or infinite, from row ", row, " on"));
        }
        const bool fits = type == GGML_TYPE_F32 || std::ranges::all_of(numbers, [](float x) {
                              return std::abs(x) <= kMostF16;
                          });
        if (!fits) refuse(name, "has numbers too large for f16; convert with --type f32");
    }

    static void write(const CheckpointTensor& t, const std::string& name, ggml_type type,
                      const GgufWriter::Put& put) {
        const int64_t n_row = t.shape.back();
        const int64_t n_rows = t.size() / n_row;
        const int64_t most = std::max<int64_t>(1, static_cast<int64_t>(kAtOnce) / n_row);
        std::vector<float> numbers;
        std::vector<std::byte> stored;
        for (int64_t row = 0; row < n_rows; row += most) {
            const int64_t n = std::min(most, n_rows - row);
            numbers.resize(static_cast<size_t>(n * n_row));
            t.read(row * n_row, numbers);
            check_numbers(numbers, type, name, row);
            if (type == GGML_TYPE_F32) {
                put(std::as_bytes(std::span(numbers)));
            } else {
                stored.resize(static_cast<size_t>(n) * ggml_row_size(type, n_row));
                ggml_quantize_chunk(type, numbers.data(), stored.data(), 0, n, n_row, nullptr);
                put(stored);
            }
            // Pages that were read go, so that a model is never held.
            const size_t width = t.data.size() / static_cast<size_t>(t.size());
            t.file->forget(t.data.subspan(static_cast<size_t>(row * n_row) * width,
                                          static_cast<size_t>(n * n_row) * width));
        }
    }

    const Checkpoint& from_;
    GgufWriter& to_;
    ggml_type type_;
    std::function<void(size_t)> on_read_;
    std::set<std::string, std::less<>> used_;
};

/// Encoder or decoder.
class ModelPart {
 public:
    explicit ModelPart(const fs::path& folder)
        : folder_(folder),
          settings_((folder / "config.json").string()),
          sizes_(qwen_sizes(settings_)) {
        std::error_code error;
        for (const char* lora : {"adapter_model.safetensors", "adapter_config.json"}) {
            if (fs::exists(folder / lora, error)) {
                refuse(folder.string(), cat("is a LoRA over another model ('", lora,
                                            "'); merge it into its base model first"));
            }
        }
        weights_.emplace(folder.string(), "model");
        tokens_ = read_tokenizer_files(folder.string());
    }

    [[nodiscard]] const QwenSizes& sizes() const { return sizes_; }
    [[nodiscard]] const std::optional<TokenizerFiles>& tokens() const { return tokens_; }
    [[nodiscard]] const Settings& settings() const { return settings_; }
    [[nodiscard]] const Checkpoint& weights() const { return *weights_; }
    [[nodiscard]] size_t bytes() const {
        size_t n = 0;
        for (const auto& [name, t] : weights_->tensors()) n += t.data.size();
        return n;
    }

    /// Returns the file's SHA-256.
    std::string write(const std::string& path, std::string_view name, ggml_type type,
                      bool is_encoder, const std::function<void(size_t)>& on_read) const {
        GgufWriter file;
        describe(file, name, type, is_encoder);
        Copier copier(*weights_, file, type, on_read);
        // Saved as a bare model, names lack the first part.
        const std::string model = weights_->has("model.norm.weight") ? "model." : "";
        copier.copy(model + "embed_tokens.weight", "token_embd.weight");
        for (int64_t i = 0; i < sizes_.n_layer; ++i) {
            copier.copy_block(cat(model, "layers.", i, "."), cat("blk.", i, "."));
        }
        copier.copy(model + "norm.weight", "output_norm.weight");
        copier.copy_if_there("lm_head.weight", "output.weight");
        copier.check_all_used(folder_.string());
        return file.write(path);
    }

 private:
    void describe(GgufWriter& file, std::string_view name, ggml_type type, bool is_encoder) const {
        const QwenSizes& c = sizes_;
        const auto set = [&](const char* key, int64_t value) {
            file.set_count(cat("qwen3.", key), static_cast<uint32_t>(value));
        };
        file.set_text("general.architecture", "qwen3");
        file.set_text("general.type", "model");
        file.set_text("general.name", name);
        set("block_count", c.n_layer);
        set("context_length", c.n_ctx);
        set("embedding_length", c.n_embd);
        set("feed_forward_length", c.n_ff);
        set("attention.head_count", c.n_head);
        set("attention.head_count_kv", c.n_head_kv);
        set("attention.key_length", c.d_head);
        set("attention.value_length", c.d_head);
        set("vocab_size", c.n_vocab);
        file.set_number("qwen3.rope.freq_base", c.rope_base);
        file.set_number("qwen3.attention.layer_norm_rms_epsilon", c.epsilon);
        file.set_count("general.file_type", file_type(type));
        file.set_count("general.quantization_version", 2);
        if (is_encoder) {
            set("pooling_type", 0);  // none: every token's state is wanted
            file.set_boolean("qwen3.attention.causal", true);
            file.set_boolean("tokenizer.ggml.add_bos_token", false);
            file.set_boolean("tokenizer.ggml.add_eos_token", false);
        }
        if (tokens_) {
            tokens_->describe(file, c.n_vocab);
        } else {
            file.set_text("tokenizer.ggml.model", "none");
        }
    }
    /// libllama's number for the kind of most matrices.
    static uint32_t file_type(ggml_type type) {
        constexpr uint32_t kF16 = 1, kQ8 = 7;
        return type == GGML_TYPE_F32 ? 0 : (type == GGML_TYPE_F16 ? kF16 : kQ8);
    }

    fs::path folder_;
    Settings settings_;
    QwenSizes sizes_;
    std::optional<Checkpoint> weights_;
    std::optional<TokenizerFiles> tokens_;
};

// ---- the adapter --------------------------------------------------------------------------------

AdapterKind adapter_kind(const Settings& s) {
    if (s.find("adapter_type") != nullptr) return adapter_kind_named(s.text("adapter_type"));
    if (!s.is_set("use_adapter_attention")) return AdapterKind::kMlp;
    const std::string order = s.text("adapter_order", {}, "attn_mlp");
    return order == "mlp_first" ? AdapterKind::kMlpAttention : adapter_kind_named(order);
}

Pooling pooling(const Settings& s) {
    const std::string name = s.text("pooling", "pooling_token", "mean");
    constexpr auto kOld =
        std::to_array<std::pair<std::string_view, Pooling>>({{"summary_mean", Pooling::kMean},
                                                             {"summary_concat", Pooling::kConcat},
                                                             {"summary", Pooling::kEos}});
    for (const auto& [old, is] : kOld) {
        if (name == old) return is;
    }
    return pooling_named(name);
}

/// The tags' ids: of the vocabulary if there is one, else the last three rows of the table, which
/// is where training appends them.
void find_tags(const ModelPart& decoder, CompressionForm& form) {
    const auto last = static_cast<TokenId>(decoder.sizes().n_vocab);
    const auto id = [&](const char* text, TokenId without_words) {
        if (!decoder.tokens()) return without_words;
        const auto found = decoder.tokens()->added_token(text);
        if (!found) {
            throw Error(ErrorCode::kNotFound, cat("the decoder's vocabulary has no '", text, "'"));
        }
        return *found;
    };
    form.start = id("<|memory_start|>", last - 3);
    form.end = id("<|memory_end|>", last - 2);
    form.slot = id("<|memory|>", last - 1);
}

TokenId marker_of(const ModelPart& encoder) {
    if (encoder.tokens()) {
        if (const auto id = encoder.tokens()->added_token("<|endoftext|>")) return *id;
    }
    return static_cast<TokenId>(encoder.settings().count("pad_token_id", {}, -1));
}

CompressionForm compression_form(const Settings& s, const ModelPart& encoder,
                                 const ModelPart& decoder) {
    CompressionForm f = {.ratio = s.count("compression_ratio", "chunk_size"),
                         .window = s.count("encoder_window_size", "batch_summary_tokens"),
                         .overlap = s.count("boundary_overlap", "overlap_tokens", 0),
                         .pooling = pooling(s),
                         .is_bidirectional = is_bidirectional_named(
                             s.text("encoder_mask_type", "embed_mask_type", "causal")),
                         .adapter = adapter_kind(s),
                         .encoder_width = encoder.sizes().n_embd,
                         .decoder_width = decoder.sizes().n_embd};
    if (f.adapter != AdapterKind::kMlp) f.n_adapter_layers = s.count("num_adapter_layers", {}, 1);
    if (f.pooling == Pooling::kEos) f.marker = marker_of(encoder);
    if (f.ratio < 1 || f.window < 1) {
        throw Error(ErrorCode::kCorrupt, cat("'", s.path(), "' turns ", f.ratio,
                                             " tokens into one in windows of ", f.window));
    }
    find_tags(decoder, f);
    check_compression_form(f);
    return f;
}

void describe_layers(GgufWriter& file, const QwenSizes& c) {
    const auto set = [&](const char* key, int64_t value) {
        file.set_count(cat("lclm.adapter.", key), static_cast<uint32_t>(value));
    };
    set("head_count", c.n_head);
    set("head_count_kv", c.n_head_kv);
    set("key_length", c.d_head);
    set("feed_forward_length", c.n_ff);
    file.set_number("lclm.adapter.rope_freq_base", c.rope_base);
    file.set_number("lclm.adapter.rms_epsilon", c.epsilon);
}

std::string adapter_file(const fs::path& folder) {
    return part_of(folder, {"adapter.safetensors", "code_adapter.safetensors"}).string();
}

/// A row of the token table as a tensor of its own.
void copy_row(const Checkpoint& from, GgufWriter& to, const std::string& name, TokenId row) {
    const std::string table =
        from.has("model.embed_tokens.weight") ? "model.embed_tokens.weight" : "embed_tokens.weight";
    const CheckpointTensor& t = from.tensor(table);
    const int64_t width = t.shape.back();
    if (row < 0 || (row + 1) * width > t.size()) {
        throw Error(ErrorCode::kCorrupt, cat("the decoder's token table has no row ", row));
    }
    std::vector<float> values(static_cast<size_t>(width));
    t.read(row * width, values);
    to.add(name, {width, 1, 1, 1}, values);
}

/// Of a folder, with or without a slash at its end.
std::string name_of(const fs::path& folder) {
    const fs::path path = folder.lexically_normal();
    return (path.has_filename() ? path : path.parent_path()).filename().string();
}

}  // namespace

Converted converted_in(const std::string& folder) {
    std::error_code error;
    fs::create_directories(folder, error);
    if (error) {
        throw Error(ErrorCode::kUnwritable,
                    cat("cannot make the folder '", folder, "': ", error.message()));
    }
    const auto path = [&](const char* name) { return (fs::path(folder) / name).string(); };
    return {.encoder = path("encoder.gguf"),
            .decoder = path("decoder.gguf"),
            .adapter = path("adapter.gguf"),
            .form = {}};
}

size_t written_bytes(const Converted& files) {
    size_t bytes = 0;
    for (const std::string& path : {files.encoder, files.decoder, files.adapter}) {
        std::error_code error;
        const auto n = fs::file_size(path, error);
        if (!error) bytes += static_cast<size_t>(n);
    }
    return bytes;
}

Converted convert_lclm(const std::string& checkpoint, const std::string& folder,
                       const ConvertOptions& options) {
    const ggml_type type = matrix_type(options.type);
    const Settings settings(part_of(checkpoint, {"model_config.json"}).string());
    const ModelPart encoder(part_of(checkpoint, {"encoder", "embedder"}));
    const ModelPart decoder(part_of(checkpoint, {"decoder", "llm"}));
    const Checkpoint adapter(adapter_file(part_of(checkpoint, {"adapter", "projectors"})));

    // Before anything is made.
    const CompressionForm f = compression_form(settings, encoder, decoder);
    Converted done = converted_in(folder);
    done.form = f;

    const size_t total = encoder.bytes() + decoder.bytes();
    const auto on_read = [&](size_t n) {
        done.bytes_read += n;
        const bool goes_on =
            !options.on_progress || options.on_progress(std::min(done.bytes_read, total), total);
        if (!goes_on) throw Error(ErrorCode::kExhausted, "the conversion was stopped");
    };
    const std::string name = name_of(checkpoint);
    const std::string encoder_sum =
        encoder.write(done.encoder, cat(name, " encoder"), type, true, on_read);
    const std::string decoder_sum =
        decoder.write(done.decoder, cat(name, " decoder"), type, false, on_read);

    GgufWriter file;
    file.set_text("general.architecture", "lclm");
    file.set_text("general.name", cat(name, " adapter"));
    file.set_count("general.file_type", 0);
    describe(f, file);
    file.set_text("lclm.encoder.sha256", encoder_sum);
    file.set_text("lclm.decoder.sha256", decoder_sum);
    file.set_text("lclm.encoder.fingerprint", model_fingerprint(GgufFile::open(done.encoder)));
    file.set_text("lclm.decoder.fingerprint", model_fingerprint(GgufFile::open(done.decoder)));
    if (f.n_adapter_layers > 0) {
        const bool first = f.adapter == AdapterKind::kAttentionMlp;
        describe_layers(file, first ? encoder.sizes() : decoder.sizes());
    }
    Copier copier(adapter, file, GGML_TYPE_F32, on_read);
    copier.copy("norm.weight", "lclm.adapter.norm.weight");
    for (const char* matrix : {"fc1", "fc2"}) {
        for (const char* part : {".weight", ".bias"}) {
            copier.copy(cat(matrix, part), cat("lclm.adapter.", matrix, part));
        }
    }
    for (int64_t i = 0; i < f.n_adapter_layers; ++i) {
        copier.copy_block(cat("attention_layers.", i, ".decoder_layer."),
                          cat("lclm.adapter.blk.", i, "."));
    }
    copier.check_all_used(checkpoint);
    copy_row(decoder.weights(), file, "lclm.tag.start", f.start);
    copy_row(decoder.weights(), file, "lclm.tag.end", f.end);
    file.write(done.adapter);
    done.bytes_written = written_bytes(done);
    return done;
}

}  // namespace palimpsest
