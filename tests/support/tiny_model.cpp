#include "support/tiny_model.h"

#include <ggml-cpp.h>
#include <gguf.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "core/error.h"

namespace palimpsest::testing {

namespace {

constexpr int64_t kFeedForward = 48;
constexpr int64_t kTaps = 4;  // of short convolutions
constexpr size_t kMaxTensors = 1024;

/// Uniform in [-1, 1). Not std::uniform_real_distribution, which differs between libraries.
class Random {
 public:
    explicit Random(uint32_t seed) : engine_(seed) {}
    float next() {
        constexpr float kStep = 1.0F / static_cast<float>(1 << 23);
        return static_cast<float>(engine_() >> 8U) * kStep - 1.0F;
    }

 private:
    std::mt19937 engine_;
};

/// Collects keys and tensors, then writes them out.
class ModelWriter {
 public:
    explicit ModelWriter(const TinyModelOptions& o)
        : o_(o),
          random_(o.seed),
          gguf_(gguf_init_empty()),
          ctx_(ggml_init({.mem_size = kMaxTensors * ggml_tensor_overhead(),
                          .mem_buffer = nullptr,
                          .no_alloc = true})) {}

    void text(const std::string& key, const std::string& value) {
        gguf_set_val_str(gguf_.get(), key.c_str(), value.c_str());
    }
    /// Under the architecture's own prefix.
    void count(const std::string& key, int64_t value) {
        gguf_set_val_u32(gguf_.get(), (o_.architecture + "." + key).c_str(),
                         static_cast<uint32_t>(value));
    }
    void list(const std::string& key, const std::vector<int32_t>& values) {
        gguf_set_arr_data(gguf_.get(), (o_.architecture + "." + key).c_str(), GGUF_TYPE_INT32,
                          values.data(), values.size());
    }
    void number(const std::string& key, float value) {
        gguf_set_val_f32(gguf_.get(), (o_.architecture + "." + key).c_str(), value);
    }

    /// Something multiplied with; `gain` 1 keeps the size of what goes through.
    void matrix(const std::string& name, int64_t n_in, int64_t n_out, float gain = 1.0F) {
        const float size = gain * std::sqrt(3.0F / static_cast<float>(n_in));
        const bool fits = n_in % ggml_blck_size(o_.weights) == 0;
        add(name, fits ? o_.weights : GGML_TYPE_F32, {n_in, n_out, 1, 1},
            [&] { return size * random_.next(); });
    }
    void norm(const std::string& name, int64_t n) { values(name, {n, 1, 1, 1}, 1.0F, 0.2F); }
    /// Around `middle`, by `spread` at most.
    void values(const std::string& name, const Shape& shape, float middle, float spread) {
        add(name, GGML_TYPE_F32, shape, [&] { return middle + spread * random_.next(); });
    }

    [[nodiscard]] std::string bytes() const {
        std::string out(gguf_get_meta_size(gguf_.get()), '\0');
        gguf_get_meta_data(gguf_.get(), out.data());
        return out + data_;
    }

 private:
    template <typename Next>
    void add(const std::string& name, ggml_type type, const Shape& shape, Next next) {
        ggml_tensor* t = ggml_new_tensor(ctx_.get(), type, 4, shape.data());
        ggml_set_name(t, name.c_str());
        gguf_add_tensor(gguf_.get(), t);
        std::vector<float> values(static_cast<size_t>(ggml_nelements(t)));
        std::ranges::generate(values, next);
        std::string stored(ggml_nbytes(t), '\0');
        ggml_quantize_chunk(type, values.data(), stored.data(), 0, shape[1], shape[0], nullptr);
        data_ += stored;
        const size_t align = gguf_get_alignment(gguf_.get());
        data_.resize((data_.size() + align - 1) / align * align);
    }

    const TinyModelOptions& o_;
    Random random_;
    gguf_context_ptr gguf_;
    ggml_context_ptr ctx_;
    std::string data_;
};

bool has_states(const TinyModelOptions& o) {
    return o.architecture == "mamba2" || o.architecture == "qwen35";
}

int64_t state_channels(const TinyModelOptions& o) {
    return o.n_state * o.d_state + 2 * o.n_state_key * o.d_state_key;
}

void write_state_keys(ModelWriter& w, const TinyModelOptions& o) {
    w.count("ssm.conv_kernel", kTaps);
    w.count("ssm.inner_size", o.n_state * o.d_state);
    w.count("ssm.state_size", o.d_state_key);
    w.count("ssm.time_step_rank", o.n_state);
    w.count("ssm.group_count", o.n_state_key);
    if (o.architecture != "qwen35") return;
    w.count("full_attention_interval", o.window_period);
    // By turns, as far as they go.
    const auto half = static_cast<int32_t>(o.d_head / 2);
    w.list("rope.dimension_sections", {(half + 2) / 3, (half + 1) / 3, half / 3, 0});
}

void write_keys(ModelWriter& w, const TinyModelOptions& o) {
    w.text("general.architecture", o.architecture);
    w.text("general.name", "tiny");
    w.text("tokenizer.ggml.model", "none");
    w.count("vocab_size", kTinyVocab);  // libllama asks for it where there is no vocabulary
    w.count("block_count", o.n_layer);
    w.count("context_length", o.n_ctx);
    w.count("embedding_length", kTinyWidth);
    w.number("attention.layer_norm_rms_epsilon", 1e-5F);
    if (has_states(o)) write_state_keys(w, o);
    if (o.architecture == "mamba2") {
        w.count("feed_forward_length", 0);
        w.count("attention.head_count", 0);
        return;
    }
    w.count("feed_forward_length", kFeedForward);
    w.count("attention.head_count", o.n_head);
    w.count("attention.head_count_kv", o.n_head_kv);
    w.count("attention.key_length", o.d_head);
    w.count("attention.value_length", o.d_head);
    w.count("rope.dimension_count", o.d_head);
    w.number("rope.freq_base", 10000.0F);
    if (o.architecture == "gemma3") {
        w.count("attention.sliding_window", o.window);
        w.count("attention.sliding_window_pattern", o.window_period);
    }
}

/// What recurrent blocks of all families have.
void write_states(ModelWriter& w, const TinyModelOptions& o, int64_t i, const Shape& per_state) {
    const auto name = [i](const char* part) { return cat("blk.", i, ".", part); };
    w.values(name("ssm_conv1d.weight"), {kTaps, state_channels(o), 1, 1}, 0.0F, 0.6F);
    w.values(name("ssm_dt.bias"), {o.n_state, 1, 1, 1}, -1.0F, 1.0F);
    w.values(name("ssm_a"), per_state, -1.0F, 0.9F);
    w.matrix(name("ssm_out.weight"), o.n_state * o.d_state, kTinyWidth);
}

void write_mamba2_block(ModelWriter& w, const TinyModelOptions& o, int64_t i) {
    const auto name = [i](const char* part) { return cat("blk.", i, ".", part); };
    const int64_t inner = o.n_state * o.d_state;
    w.norm(name("attn_norm.weight"), kTinyWidth);
    w.matrix(name("ssm_in.weight"), kTinyWidth, inner + state_channels(o) + o.n_state);
    write_states(w, o, i, {1, o.n_state, 1, 1});
    w.values(name("ssm_conv1d.bias"), {state_channels(o), 1, 1, 1}, 0.0F, 0.2F);
    w.values(name("ssm_d"), {1, o.n_state, 1, 1}, 1.0F, 0.2F);
    w.values(name("ssm_norm.weight"), {inner / o.n_state_key, o.n_state_key, 1, 1}, 1.0F, 0.2F);
}

void write_qwen35_block(ModelWriter& w, const TinyModelOptions& o, int64_t i) {
    const auto name = [i](const char* part) { return cat("blk.", i, ".", part, ".weight"); };
    w.norm(name("attn_norm"), kTinyWidth);
    w.norm(name("post_attention_norm"), kTinyWidth);
    w.matrix(name("ffn_gate"), kTinyWidth, kFeedForward);
    w.matrix(name("ffn_up"), kTinyWidth, kFeedForward);
    w.matrix(name("ffn_down"), kFeedForward, kTinyWidth);
    if ((i + 1) % o.window_period == 0) {
        w.matrix(name("attn_q"), kTinyWidth, 2 * o.n_head * o.d_head, 2.0F);
        w.matrix(name("attn_k"), kTinyWidth, o.n_head_kv * o.d_head, 2.0F);
        w.matrix(name("attn_v"), kTinyWidth, o.n_head_kv * o.d_head);
        w.matrix(name("attn_output"), o.n_head * o.d_head, kTinyWidth);
        w.norm(name("attn_q_norm"), o.d_head);
        w.norm(name("attn_k_norm"), o.d_head);
        return;
    }
    w.matrix(name("attn_qkv"), kTinyWidth, state_channels(o), 2.0F);
    w.matrix(name("attn_gate"), kTinyWidth, o.n_state * o.d_state);
    w.matrix(name("ssm_beta"), kTinyWidth, o.n_state);
    w.matrix(name("ssm_alpha"), kTinyWidth, o.n_state);
    write_states(w, o, i, {o.n_state, 1, 1, 1});
    w.norm(name("ssm_norm"), o.d_state);
}

void write_block(ModelWriter& w, const TinyModelOptions& o, int64_t i) {
    if (o.architecture == "mamba2") return write_mamba2_block(w, o, i);
    if (o.architecture == "qwen35") return write_qwen35_block(w, o, i);
    const auto name = [i](const char* part) { return cat("blk.", i, ".", part, ".weight"); };
    // Queries and keys twice as large: attention that looks somewhere, not everywhere alike.
    w.norm(name("attn_norm"), kTinyWidth);
    w.matrix(name("attn_q"), kTinyWidth, o.n_head * o.d_head, 2.0F);
    w.matrix(name("attn_k"), kTinyWidth, o.n_head_kv * o.d_head, 2.0F);
    w.matrix(name("attn_v"), kTinyWidth, o.n_head_kv * o.d_head);
    w.matrix(name("attn_output"), o.n_head * o.d_head, kTinyWidth);
    w.norm(name("ffn_norm"), kTinyWidth);
    w.matrix(name("ffn_gate"), kTinyWidth, kFeedForward);
    w.matrix(name("ffn_up"), kTinyWidth, kFeedForward);
    w.matrix(name("ffn_down"), kFeedForward, kTinyWidth);
    if (o.architecture == "gemma3") {
        w.norm(name("attn_q_norm"), o.d_head);
        w.norm(name("attn_k_norm"), o.d_head);
        w.norm(name("post_attention_norm"), kTinyWidth);
        w.norm(name("post_ffw_norm"), kTinyWidth);
    }
}

}  // namespace

std::string tiny_model_bytes(const TinyModelOptions& options) {
    ModelWriter w(options);
    write_keys(w, options);
    w.matrix("token_embd.weight", kTinyWidth, kTinyVocab);
    w.norm("output_norm.weight", kTinyWidth);
    w.matrix("output.weight", kTinyWidth, kTinyVocab);
    for (int64_t i = 0; i < options.n_layer; ++i) write_block(w, options, i);
    return w.bytes();
}

TemporaryFile tiny_model_file(const TinyModelOptions& options) {
    return TemporaryFile(tiny_model_bytes(options), ".gguf");
}

std::vector<TokenId> tiny_tokens(int64_t n, uint32_t seed) {
    std::mt19937 engine(seed);
    std::vector<TokenId> tokens(static_cast<size_t>(n));
    for (TokenId& t : tokens) t = static_cast<TokenId>(engine() % kTinyVocab);
    return tokens;
}

TinyModel::TinyModel(const TinyModelOptions& options, int n_threads)
    : n_ctx_(options.n_ctx),
      file_(tiny_model_bytes(options), ".gguf"),
      backend_(n_threads),
      loaded_(file_.path(), backend_, options.reading),
      runtime_(loaded_, backend_) {}

std::unique_ptr<ContextMemory> TinyModel::memory(ggml_type entries, AttentionPath path) const {
    const MemoryShape of = shape();
    const auto kinds = memory_kinds();
    const auto kind =
        std::ranges::find_if(kinds, [&of](const MemoryKind& k) { return k.suits(of); });
    return make_memory(kind->name, backend_, of,
                       {.n_ctx = n_ctx_, .entries = entries, .path = path});
}

Session TinyModel::session(std::unique_ptr<ContextMemory> memory, int64_t n_chunk) {
    return Session(model(), backend_, std::move(memory), {.n_chunk = n_chunk});
}

std::vector<float> all_logits(Session& session, const std::vector<TokenId>& tokens) {
    std::vector<float> logits;
    session.feed(tokens, {.on_progress = {}, .on_logits = [&](int64_t, std::span<const float> row) {
                              logits.insert(logits.end(), row.begin(), row.end());
                          }});
    return logits;
}

std::vector<TokenId> write_greedily(Session& session, int64_t n) {
    std::vector<TokenId> tokens;
    for (int64_t i = 0; i < n; ++i) {
        const std::span<const float> logits = session.logits();
        tokens.push_back(static_cast<TokenId>(std::ranges::max_element(logits) - logits.begin()));
        session.accept(tokens.back());
    }
    return tokens;
}

}  // namespace palimpsest::testing
