#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "model/families.h"
#include "model/keys.h"
#include "model/model.h"

namespace palimpsest {

namespace {

// More than any model has; small enough that no product of a few of them overflows.
constexpr ModelKeys::Range kLayers = {1, 1024};
constexpr ModelKeys::Range kWidths = {1, int64_t{1} << 20};
constexpr ModelKeys::Range kHeadSizes = {2, int64_t{1} << 20};
constexpr ModelKeys::Range kContexts = {1, int64_t{1} << 28};

/// Keys of a scaling that is not applied change nothing.
void pass_over_yarn(const ModelKeys& keys) {
    for (const char* key : {"original_context_length", "yarn_beta_fast", "yarn_beta_slow",
                            "yarn_ext_factor", "yarn_attn_factor", "yarn_log_multiplier"}) {
        keys.pass_over(cat("rope.scaling.", key));
    }
}

float read_factor(const ModelKeys& keys) {
    const float old = keys.positive_or("rope.scale_linear", 1.0F);
    return keys.positive_or("rope.scaling.factor", old);
}

RopeScaling read_rope_scaling(const ModelKeys& keys, int64_t n_ctx_train) {
    RopeScaling s;
    // A factor alone is a linear one, for libllama too.
    const bool is_scaled = keys.has("rope.scaling.factor") || keys.has("rope.scale_linear");
    s.type = keys.text_or("rope.scaling.type", is_scaled ? "linear" : "none");
    if (s.type != "none" && s.type != "linear" && s.type != "yarn") {
        throw Error(ErrorCode::kUnsupported,
                    cat("rope scaling '", s.type, "'; there are none, linear, yarn and llama3"));
    }
    const float factor = read_factor(keys);
    if (s.type != "yarn") pass_over_yarn(keys);
    if (s.type == "none") return s;
    s.factor = factor;
    if (s.type == "linear") return s;
    s.n_ctx_original =
        keys.count_or("rope.scaling.original_context_length", kContexts, n_ctx_train);
    s.attn_factor = keys.positive_or("rope.scaling.attn_factor", 1.0F);
    s.beta_fast = keys.positive_or("rope.scaling.yarn_beta_fast", 32.0F);
    s.beta_slow = keys.positive_or("rope.scaling.yarn_beta_slow", 1.0F);
    s.ext_factor = 1.0F;
    return s;
}

/// `may_lack_heads`: layers without key-value heads are of another kind.
void read_heads(const ModelKeys& keys, ModelConfig& c, bool may_lack_heads) {
    c.n_head = keys.layers_count("attention.head_count", kWidths, c.n_layer);
    c.n_head_kv = c.n_head;
    if (keys.has("attention.head_count_kv")) {
        const char* const key = "attention.head_count_kv";
        const ModelKeys::Range range = {1, c.n_head};
        c.n_head_kv = may_lack_heads ? keys.some_layers_count(key, range, c.n_layer)
                                     : keys.layers_count(key, range, c.n_layer);
    }
    if (c.n_head % c.n_head_kv != 0) {
        throw Error(ErrorCode::kCorrupt,
                    cat(c.n_head, " heads cannot share ", c.n_head_kv, " key-value heads evenly"));
    }
    const bool has_size = keys.has("attention.key_length");
    if (!has_size && c.n_embd % c.n_head != 0) {
        throw Error(ErrorCode::kCorrupt,
                    cat("width ", c.n_embd, " does not divide among ", c.n_head, " heads"));
    }
    c.d_head = keys.count_or("attention.key_length", kHeadSizes, c.n_embd / c.n_head);
    const int64_t d_value = keys.count_or("attention.value_length", kHeadSizes, c.d_head);
    if (d_value != c.d_head) {
        throw Error(ErrorCode::kUnsupported, cat("keys of ", c.d_head, " and values of ", d_value,
                                                 " channels; only equal sizes are computed"));
    }
    c.n_rot = keys.count_or("rope.dimension_count", {2, c.d_head}, c.d_head);
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

/// 0: there is none but experts.
int64_t read_feed_forward(const ModelKeys& keys, const ModelConfig& c, bool may_have_experts) {
    const char* const key = "feed_forward_length";
    if (!may_have_experts) return keys.layers_count(key, kWidths, c.n_layer);
    if (!keys.has(key)) return 0;
    return keys.layers_count(key, {0, kWidths.most}, c.n_layer);
}

ExpertSizes read_experts(const ModelKeys& keys, const ModelConfig& c, bool may_have_some) {
    constexpr ModelKeys::Range kExperts = {0, 4096};
    ExpertSizes e;
    e.n = keys.count_or("expert_count", kExperts, 0);
    if (e.n == 0) return e;
    if (!may_have_some) {
        throw Error(ErrorCode::kUnsupported,
                    cat("a model of architecture '", c.architecture, "' with ", e.n,
                        " experts; those of this architecture are computed without"));
    }
    e.n_used = keys.count("expert_used_count", {1, e.n});
    const char* const own = "expert_feed_forward_length";
    e.n_ff = keys.has(own) ? keys.layers_count(own, kWidths, c.n_layer) : c.n_ff;
    if (e.n_ff == 0) throw Error(ErrorCode::kCorrupt, "experts without a width");
    e.n_ff_shared = keys.count_or("expert_shared_feed_forward_length", {0, kWidths.most}, 0);
    // Softmax over all, what the used ones get normed: other ways are other families'.
    constexpr int64_t kSoftmax = 1;
    static_cast<void>(keys.count_or("expert_gating_func", {kSoftmax, kSoftmax}, kSoftmax));
    return e;
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
        if (!rotates) f = 0;
        r.frequency.push_back(static_cast<float>(f));
    }
    return r;
}

MemoryShape ModelConfig::memory_shape() const {
    MemoryShape shape = {.n_layer = n_layer,
                         .n_head = n_head,
                         .n_head_kv = n_head_kv,
                         .d_head = d_head,
                         .windows = windows,
                         .n_embd = n_embd,
                         .n_ctx_train = n_ctx_train,
                         .rotation = {},
                         .rotation_window = {},
                         .layers = layers};
    if (n_head > 0) {
        shape.rotation = rotation(false);
        shape.rotation_window = rotation(true);
    }
    return shape;
}

ModelConfig read_config(const ModelKeys& keys) {
    const FamilyTraits& traits = find_family(keys.architecture()).traits;
    ModelConfig c;
    c.architecture = keys.architecture();
    c.name = keys.file().text("general.name").value_or("unnamed");
    c.n_layer = keys.count("block_count", kLayers);
    c.n_embd = keys.count("embedding_length", kWidths);
    if (traits.feeds_forward) {
        c.n_ff = read_feed_forward(keys, c, traits.has_experts);
    } else {
        keys.pass_over("feed_forward_length");
    }
    c.n_ctx_train = keys.count("context_length", kContexts);
    c.norm_eps = keys.positive_or("attention.layer_norm_rms_epsilon", 1e-5F);
    c.n_vocab = vocabulary_size(keys.file());
    if (traits.attends) {
        c.rope_base = keys.positive_or("rope.freq_base", 10000.0F);
        c.rope_scaling = read_rope_scaling(keys, c.n_ctx_train);
        read_heads(keys, c, traits.has_states);
        c.rope_factors = read_rope_factors(keys.file(), c.n_rot / 2);
    } else {
        keys.pass_over("attention.head_count");
        keys.pass_over("attention.head_count_kv");
    }
    c.experts = read_experts(keys, c, traits.has_experts);
    return c;
}

}  // namespace palimpsest
