#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "model/model.h"

namespace palimpsest {

namespace {

// More than any model has; small enough that no product of a few of them overflows.
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxWidth = int64_t{1} << 20;
constexpr int64_t kMaxContext = int64_t{1} << 28;

/// Reads keys under the file's own architecture prefix.
class Keys {
 public:
    Keys(const GgufFile& file, std::string architecture)
        : file_(file), prefix_(std::move(architecture) + ".") {}

    [[nodiscard]] bool has(const std::string& key) const { return file_.has(prefix_ + key); }

    [[nodiscard]] int64_t count(const std::string& key, int64_t least, int64_t most) const {
        const auto value = file_.integer(prefix_ + key);
        if (!value) {
            throw Error(ErrorCode::kNotFound,
                        cat("the model file has no key '", prefix_, key, "'"));
        }
        check_range(key, *value, least, most);
        return *value;
    }

    [[nodiscard]] int64_t count_or(const std::string& key, int64_t least, int64_t most,
                                   int64_t fallback) const {
        return has(key) ? count(key, least, most) : fallback;
    }

    [[nodiscard]] float positive_or(const std::string& key, float fallback) const {
        const auto value = file_.number(prefix_ + key);
        if (!value) return fallback;
        if (!std::isfinite(*value) || *value <= 0 || *value > 1e12) {
            throw Error(ErrorCode::kCorrupt,
                        cat("key '", prefix_, key, "' is ", *value, "; it must be positive"));
        }
        return static_cast<float>(*value);
    }

    [[nodiscard]] std::string text_or(const std::string& key, std::string_view fallback) const {
        return std::string(file_.text(prefix_ + key).value_or(fallback));
    }

 private:
    void check_range(const std::string& key, int64_t value, int64_t least, int64_t most) const {
        if (value >= least && value <= most) return;
        throw Error(ErrorCode::kCorrupt, cat("key '", prefix_, key, "' is ", value, "; it must be ",
                                             least, " to ", most));
    }

    const GgufFile& file_;
    std::string prefix_;
};

RopeScaling read_rope_scaling(const Keys& keys) {
    RopeScaling s;
    s.type = keys.text_or("rope.scaling.type", "none");
    // Older files state a linear factor without naming the type.
    const bool old_linear = !keys.has("rope.scaling.type") && keys.has("rope.scale_linear");
    if (old_linear) s.type = "linear";
    if (s.type != "none" && s.type != "linear" && s.type != "yarn") {
        throw Error(ErrorCode::kUnsupported,
                    cat("rope scaling '", s.type, "'; there are none, linear, yarn and llama3"));
    }
    if (s.type == "none") return s;
    s.factor = keys.positive_or(old_linear ? "rope.scale_linear" : "rope.scaling.factor", 1.0F);
    if (s.type == "linear") return s;
    s.n_ctx_original = keys.count("rope.scaling.original_context_length", 1, kMaxContext);
    s.attn_factor = keys.positive_or("rope.scaling.attn_factor", 1.0F);
    s.beta_fast = keys.positive_or("rope.scaling.yarn_beta_fast", 32.0F);
    s.beta_slow = keys.positive_or("rope.scaling.yarn_beta_slow", 1.0F);
    s.ext_factor = 1.0F;
    return s;
}

void read_heads(const Keys& keys, ModelConfig& c) {
    c.n_head = keys.count("attention.head_count", 1, kMaxWidth);
    c.n_head_kv = keys.count_or("attention.head_count_kv", 1, c.n_head, c.n_head);
    if (c.n_head % c.n_head_kv != 0) {
        throw Error(ErrorCode::kCorrupt,
                    cat(c.n_head, " heads cannot share ", c.n_head_kv, " key-value heads evenly"));
    }
    const bool has_size = keys.has("attention.key_length");
    if (!has_size && c.n_embd % c.n_head != 0) {
        throw Error(ErrorCode::kCorrupt,
                    cat("width ", c.n_embd, " does not divide among ", c.n_head, " heads"));
    }
    c.d_head =
        keys.count_or("attention.key_length", 2, kMaxWidth, has_size ? 0 : c.n_embd / c.n_head);
    const int64_t d_value = keys.count_or("attention.value_length", 2, kMaxWidth, c.d_head);
    if (d_value != c.d_head) {
        throw Error(ErrorCode::kUnsupported, cat("keys of ", c.d_head, " and values of ", d_value,
                                                 " channels; only equal sizes are computed"));
    }
    c.n_rot = keys.count_or("rope.dimension_count", 2, c.d_head, c.d_head);
    if (c.n_rot % 2 != 0 || c.d_head % 2 != 0) {
        throw Error(ErrorCode::kCorrupt,
                    cat("rotary size ", c.n_rot, " of ", c.d_head, " must be even"));
    }
}

int64_t vocabulary_size(const GgufFile& file) {
    const GgufTensor* table = file.find_tensor("token_embd.weight");
    if (table == nullptr) {
        throw Error(ErrorCode::kNotFound, "the model file has no tensor 'token_embd.weight'");
    }
    return table->shape[1];
}

/// Empty if there are none.
std::vector<float> read_rope_factors(const GgufFile& file, int64_t n) {
    const GgufTensor* t = file.find_tensor("rope_freqs.weight");
    if (t == nullptr) return {};
    if (t->type != GGML_TYPE_F32 || t->shape != Shape{n, 1, 1, 1}) {
        throw Error(ErrorCode::kCorrupt,
                    cat("'rope_freqs.weight' must hold ", n, " values of type f32"));
    }
    std::vector<float> factors(static_cast<size_t>(n));
    std::memcpy(factors.data(), t->data.data(), t->data.size());
    for (const float f : factors) {
        if (!(f > 0) || !std::isfinite(f)) {
            throw Error(ErrorCode::kCorrupt, cat("'rope_freqs.weight' holds ", f));
        }
    }
    return factors;
}

}  // namespace

Rotation ModelConfig::rotation(bool windowed) const {
    const RopeScaling s = rope_scaling_of(windowed);
    const auto base = static_cast<double>(rope_base_of(windowed));
    float bounds[2] = {0, 0};  // pairs between which YaRN passes from one scale to the other
    if (s.ext_factor != 0) {
        ggml_rope_yarn_corr_dims(static_cast<int>(n_rot), static_cast<int>(s.n_ctx_original),
                                 rope_base_of(windowed), s.beta_fast, s.beta_slow, bounds);
    }
    Rotation r = {.frequency = {}, .adjacent = rope_adjacent};
    for (int64_t i = 0; i < n_rot / 2; ++i) {
        double f = std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(n_rot));
        if (!rope_factors.empty()) f /= static_cast<double>(rope_factors[static_cast<size_t>(i)]);
        const float ramp =
            (static_cast<float>(i) - bounds[0]) / std::max(0.001F, bounds[1] - bounds[0]);
        const double plain =
            static_cast<double>(s.ext_factor * (1.0F - std::clamp(ramp, 0.0F, 1.0F)));
        f *= plain + (1.0 - plain) / static_cast<double>(s.factor);
        r.frequency.push_back(static_cast<float>(f));
    }
    return r;
}

MemoryShape ModelConfig::memory_shape() const {
    return {.n_layer = n_layer,
            .n_head = n_head,
            .n_head_kv = n_head_kv,
            .d_head = d_head,
            .windows = windows,
            .n_embd = n_embd,
            .n_ctx_train = n_ctx_train,
            .rotation = rotation(false),
            .rotation_window = rotation(true)};
}

ModelConfig read_config(const GgufFile& file) {
    const auto architecture = file.text("general.architecture");
    if (!architecture) {
        throw Error(ErrorCode::kNotFound, "the model file has no key 'general.architecture'");
    }
    ModelConfig c;
    c.architecture = *architecture;
    c.name = file.text("general.name").value_or("unnamed");
    const Keys keys(file, c.architecture);
    c.n_layer = keys.count("block_count", 1, kMaxLayers);
    c.n_embd = keys.count("embedding_length", 1, kMaxWidth);
    c.n_ff = keys.count("feed_forward_length", 1, kMaxWidth);
    c.n_ctx_train = keys.count("context_length", 1, kMaxContext);
    c.norm_eps = keys.positive_or("attention.layer_norm_rms_epsilon", 1e-5F);
    c.rope_base = keys.positive_or("rope.freq_base", 10000.0F);
    c.rope_scaling = read_rope_scaling(keys);
    c.n_vocab = vocabulary_size(file);
    read_heads(keys, c);
    c.rope_factors = read_rope_factors(file, c.n_rot / 2);
    if (keys.count_or("expert_count", 0, kMaxWidth, 0) > 0) {
        throw Error(ErrorCode::kUnsupported, "mixture-of-experts models are not supported");
    }
    return c;
}

}  // namespace palimpsest
