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
constexpr int64_t kShared = 64;  // of the expert that all positions use
constexpr int64_t kTaps = 4;     // of short convolutions
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
    void flag(const std::string& key, bool value) {
        gguf_set_val_bool(gguf_.get(), (o_.architecture + "." + key).c_str(), value);
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
    /// Several of them.
    void matrices(const std::string& name, int64_t n_in, int64_t n_out, int64_t n) {
        const float size = std::sqrt(3.0F / static_cast<float>(n_in));
        const bool fits = n_in % ggml_blck_size(o_.weights) == 0;
        add(name, fits ? o_.weights : GGML_TYPE_F32, {n_in, n_out, n, 1},
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
        ggml_quantize_chunk(type, values.data(), stored.data(), 0, shape[1] * shape[2], shape[0],
                            nullptr);
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

bool is_delta_net(const TinyModelOptions& o) {
    return o.architecture == "qwen35" || o.architecture == "qwen35moe" ||
           o.architecture == "qwen3next";
}

bool is_granite(const TinyModelOptions& o) { return o.architecture.starts_with("granite"); }

bool has_states(const TinyModelOptions& o) {
    return o.architecture == "mamba2" || o.architecture == "granitehybrid" || is_delta_net(o);
}

bool attends(const TinyModelOptions& o, int64_t i) {
    return o.architecture != "mamba2" && (!has_states(o) || (i + 1) % o.window_period == 0);
}

int64_t n_experts(const TinyModelOptions& o) {
    const bool must = o.architecture == "qwen3next" || o.architecture.ends_with("moe");
    return o.n_expert == 0 && must ? 5 : o.n_expert;
}

/// Some have an expert that all positions use, and of those some a gate before it.
bool has_shared_expert(const TinyModelOptions& o) { return o.architecture != "qwen3moe"; }

int64_t state_channels(const TinyModelOptions& o) {
    return o.n_state * o.d_state + 2 * o.n_state_key * o.d_state_key;
}

void write_state_keys(ModelWriter& w, const TinyModelOptions& o) {
    w.count("ssm.conv_kernel", kTaps);
    w.count("ssm.inner_size", o.n_state * o.d_state);
    w.count("ssm.state_size", o.d_state_key);
    w.count("ssm.time_step_rank", o.n_state);
    w.count("ssm.group_count", o.n_state_key);
    if (!is_delta_net(o)) return;
    w.count("full_attention_interval", o.window_period);
    if (o.architecture == "qwen3next") return;
    // By turns, as far as they go.
    const auto half = static_cast<int32_t>(o.d_head / 2);
    w.list("rope.dimension_sections", {(half + 2) / 3, (half + 1) / 3, half / 3, 0});
}

void write_granite_keys(ModelWriter& w, const TinyModelOptions& o) {
    w.number("embedding_scale", 3.0F);
    w.number("residual_scale", 0.5F);
    w.number("attention.scale", 0.2F);
    w.number("logit_scale", 2.0F);
    if (o.architecture != "granitehybrid") return;
    w.flag("rope.scaling.finetuned", false);
    std::vector<int32_t> heads;
    for (int64_t i = 0; i < o.n_layer; ++i) {
        heads.push_back(attends(o, i) ? static_cast<int32_t>(o.n_head_kv) : 0);
    }
    w.list("attention.head_count_kv", heads);
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
    if (is_granite(o)) write_granite_keys(w, o);
    if (n_experts(o) > 0) {
        w.count("expert_count", n_experts(o));
        w.count("expert_used_count", o.n_expert_used);
        if (!is_granite(o)) w.count("expert_feed_forward_length", kFeedForward);
        if (has_shared_expert(o)) w.count("expert_shared_feed_forward_length", kShared);
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

void write_mixer(ModelWriter& w, const TinyModelOptions& o, int64_t i) {
    const auto name = [i](const char* part) { return cat("blk.", i, ".", part); };
    const int64_t inner = o.n_state * o.d_state;
    w.matrix(name("ssm_in.weight"), kTinyWidth, inner + state_channels(o) + o.n_state);
    write_states(w, o, i, {1, o.n_state, 1, 1});
    w.values(name("ssm_conv1d.bias"), {state_channels(o), 1, 1, 1}, 0.0F, 0.2F);
    w.values(name("ssm_d"), {1, o.n_state, 1, 1}, 1.0F, 0.2F);
    w.values(name("ssm_norm.weight"), {inner / o.n_state_key, o.n_state_key, 1, 1}, 1.0F, 0.2F);
}

void write_feed_forward(ModelWriter& w, const TinyModelOptions& o, int64_t i) {
    const auto name = [i](const char* part) { return cat("blk.", i, ".", part, ".weight"); };
    const int64_t n = n_experts(o);
    if (n == 0) {
        w.matrix(name("ffn_gate"), kTinyWidth, kFeedForward);
        w.matrix(name("ffn_up"), kTinyWidth, kFeedForward);
        return w.matrix(name("ffn_down"), kFeedForward, kTinyWidth);
    }
    // As published files have it, whatever the other matrices are.
    w.values(name("ffn_gate_inp"), {kTinyWidth, n, 1, 1}, 0.0F, 1.0F);
    w.matrices(name("ffn_gate_exps"), kTinyWidth, kFeedForward, n);
    w.matrices(name("ffn_up_exps"), kTinyWidth, kFeedForward, n);
    w.matrices(name("ffn_down_exps"), kFeedForward, kTinyWidth, n);
    if (!has_shared_expert(o)) return;
    w.matrix(name("ffn_gate_shexp"), kTinyWidth, kShared);
    w.matrix(name("ffn_up_shexp"), kTinyWidth, kShared);
    w.matrix(name("ffn_down_shexp"), kShared, kTinyWidth);
    if (!is_granite(o)) w.matrix(name("ffn_gate_inp_shexp"), kTinyWidth, 1);
}

void write_delta_net(ModelWriter& w, const TinyModelOptions& o, int64_t i) {
    const auto name = [i](const char* part) { return cat("blk.", i, ".", part, ".weight"); };
    const int64_t inner = o.n_state * o.d_state;
    if (o.is_legacy) {
        w.matrix(name("ssm_in"), kTinyWidth, state_channels(o) + inner, 2.0F);
    } else {
        w.matrix(name("attn_qkv"), kTinyWidth, state_channels(o), 2.0F);
        w.matrix(name("attn_gate"), kTinyWidth, inner);
    }
    if (o.architecture == "qwen3next") {
        w.matrix(name("ssm_ba"), kTinyWidth, 2 * o.n_state);
    } else {
        w.matrix(name("ssm_beta"), kTinyWidth, o.n_state);
        w.matrix(name("ssm_alpha"), kTinyWidth, o.n_state);
    }
    write_states(w, o, i, {o.n_state, 1, 1, 1});
    w.norm(name("ssm_norm"), o.d_state);
}

/// Queries and keys twice as large: attention that looks somewhere, not everywhere alike.
void write_attention(ModelWriter& w, const TinyModelOptions& o, int64_t i) {
    const auto name = [i](const char* part) { return cat("blk.", i, ".", part, ".weight"); };
    const int64_t n_q = o.n_head * o.d_head;
    w.matrix(name("attn_q"), kTinyWidth, is_delta_net(o) ? 2 * n_q : n_q, 2.0F);
    w.matrix(name("attn_k"), kTinyWidth, o.n_head_kv * o.d_head, 2.0F);
    w.matrix(name("attn_v"), kTinyWidth, o.n_head_kv * o.d_head);
    w.matrix(name("attn_output"), n_q, kTinyWidth);
}

void write_head_norms(ModelWriter& w, const TinyModelOptions& o, int64_t i) {
    w.norm(cat("blk.", i, ".attn_q_norm.weight"), o.d_head);
    w.norm(cat("blk.", i, ".attn_k_norm.weight"), o.d_head);
}

/// x + mixer(norm(x)), then x + feed_forward(norm(x)).
void write_delta_net_block(ModelWriter& w, const TinyModelOptions& o, int64_t i) {
    w.norm(cat("blk.", i, ".post_attention_norm.weight"), kTinyWidth);
    write_feed_forward(w, o, i);
    if (!attends(o, i)) return write_delta_net(w, o, i);
    write_attention(w, o, i);
    write_head_norms(w, o, i);
}

void write_block(ModelWriter& w, const TinyModelOptions& o, int64_t i) {
    const auto norm = [&](const char* name) {
        w.norm(cat("blk.", i, ".", name, ".weight"), kTinyWidth);
    };
    norm("attn_norm");
    if (is_delta_net(o)) return write_delta_net_block(w, o, i);
    attends(o, i) ? write_attention(w, o, i) : write_mixer(w, o, i);
    if (o.architecture == "mamba2") return;
    norm("ffn_norm");
    write_feed_forward(w, o, i);
    if (o.architecture == "gemma3" || o.architecture == "qwen3moe") write_head_norms(w, o, i);
    if (o.architecture != "gemma3") return;
    norm("post_attention_norm");
    norm("post_ffw_norm");
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
