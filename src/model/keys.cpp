#include "model/keys.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "core/error.h"

namespace palimpsest {

namespace {

/// Keys that say nothing about what is computed.
constexpr std::array<std::string_view, 6> kHarmless = {
    "vocab_size",                    // the token table has it
    "tensor_data_layout",            // of the file that was converted
    "rope.scaling.finetuned",        // how the model was trained
    "attention.layer_norm_epsilon",  // of norms that families here do not have
    // Of families without windows: libllama does not apply it there either.
    "attention.sliding_window",
    "mm.tokens_per_image",  // of the part that sees, which is another file
};

/// Keys that change nothing if they have this value.
struct Neutral {
    std::string_view key;
    double value;
};
constexpr std::array<Neutral, 24> kNeutral = {{
    {"attention.causal", 1},
    {"attention.clamp_kqv", 0},
    {"attention.max_alibi_bias", 0},
    {"attention.output_scale", 1},
    {"attention.scale", 0},
    {"attention.value_scale", 1},
    {"attn_logit_softcapping", 0},
    {"embedding_scale", 1},
    {"expert_group_count", 0},
    {"expert_group_used_count", 0},
    {"expert_shared_count", 0},
    {"expert_used_count", 0},
    {"final_logit_softcapping", 0},
    {"leading_dense_block_count", 0},
    {"logit_scale", 1},
    {"nextn_predict_layers", 0},
    {"pooling_type", 0},
    {"residual_scale", 1},
    {"rope.scaling.alpha", 0},
    {"rope.scaling.attn_factor", 1},
    {"rope.scaling.yarn_attn_factor", 1},
    {"rope.scaling.yarn_ext_factor", 1},
    {"rope.scaling.yarn_log_multiplier", 0},
    {"use_parallel_residual", 0},
}};

constexpr double kMost = 1e12;

/// NaN for what is no number.
double plain_number(const GgufFile& file, std::string_view name) {
    const GgufValue& value = *file.find(name);
    if (value.type == GGUF_TYPE_BOOL) return *file.boolean(name) ? 1 : 0;
    if (value.type == GGUF_TYPE_ARRAY || value.type == GGUF_TYPE_STRING) return std::nan("");
    return *file.number(name);
}

/// As a message shows it.
std::string shown(const GgufFile& file, std::string_view name, double value) {
    if (file.find(name)->type == GGUF_TYPE_BOOL) return value != 0 ? "true" : "false";
    return std::isnan(value) ? "no number" : cat(value);
}

}  // namespace

ModelKeys::ModelKeys(const GgufFile& file) : file_(file) {
    const auto architecture = file.text("general.architecture");
    if (!architecture) {
        throw Error(ErrorCode::kNotFound, "the model file has no key 'general.architecture'");
    }
    architecture_ = *architecture;
}

std::string ModelKeys::ask(std::string_view key) const {
    return *asked_.insert(cat(architecture_, ".", key)).first;
}

bool ModelKeys::has(std::string_view key) const { return file_.has(cat(architecture_, ".", key)); }

void ModelKeys::check_range(const std::string& name, int64_t value, Range range) const {
    if (value >= range.least && value <= range.most) return;
    throw Error(ErrorCode::kCorrupt, cat("key '", name, "' is ", value, "; it must be ",
                                         range.least, " to ", range.most));
}

int64_t ModelKeys::count(std::string_view key, Range range) const {
    const std::string name = ask(key);
    const auto value = file_.integer(name);
    if (!value) {
        throw Error(ErrorCode::kNotFound, cat("the model file has no key '", name, "'"));
    }
    check_range(name, *value, range);
    return *value;
}

int64_t ModelKeys::count_or(std::string_view key, Range range, int64_t fallback) const {
    return has(key) ? count(key, range) : fallback;
}

int64_t ModelKeys::equal_counts(std::string_view key, Range range, int64_t n_layer,
                                bool may_be_none) const {
    const std::string name = ask(key);
    const GgufValue* value = file_.find(name);
    if (value == nullptr || value->type != GGUF_TYPE_ARRAY) return count(key, range);
    const std::vector<int64_t> all = *file_.integers(name);
    if (std::ssize(all) != n_layer) {
        throw Error(ErrorCode::kCorrupt,
                    cat("key '", name, "' has ", all.size(), " elements for ", n_layer, " layers"));
    }
    std::optional<size_t> first;
    for (size_t i = 0; i < all.size(); ++i) {
        if (may_be_none && all[i] == 0) continue;
        check_range(name, all[i], range);
        if (!first) first = i;
        if (all[i] == all[*first]) continue;
        throw Error(
            ErrorCode::kUnsupported,
            cat("key '", name, "' is ", all[*first], " for layer ", *first, " and ", all[i],
                " for layer ", i, "; only models whose layers are all of one size are computed"));
    }
    if (!first) throw Error(ErrorCode::kCorrupt, cat("key '", name, "' is 0 for every layer"));
    return all[*first];
}

int64_t ModelKeys::layers_count(std::string_view key, Range range, int64_t n_layer) const {
    return equal_counts(key, range, n_layer, false);
}

int64_t ModelKeys::some_layers_count(std::string_view key, Range range, int64_t n_layer) const {
    return equal_counts(key, range, n_layer, true);
}

std::vector<int64_t> ModelKeys::layers_flags(std::string_view key, int64_t n_layer) const {
    const std::string name = ask(key);
    const GgufValue* value = file_.find(name);
    if (value == nullptr || value->type != GGUF_TYPE_ARRAY) return {};
    std::vector<int64_t> flags = *file_.integers(name);
    if (std::ssize(flags) < n_layer) {
        throw Error(ErrorCode::kCorrupt, cat("'", name, "' has fewer elements than layers"));
    }
    return flags;
}

bool ModelKeys::flag_or(std::string_view key, bool fallback) const {
    return file_.boolean(ask(key)).value_or(fallback);
}

float ModelKeys::positive_or(std::string_view key, float fallback) const {
    const std::string name = ask(key);
    const auto value = file_.number(name);
    if (!value) return fallback;
    const auto number = static_cast<float>(*value);
    if (!std::isfinite(*value) || !(number > 0) || *value > kMost) {
        throw Error(ErrorCode::kCorrupt,
                    cat("key '", name, "' is ", *value, "; it must be positive, up to ", kMost));
    }
    return number;
}

float ModelKeys::positive_or_none(std::string_view key) const {
    const std::string name = ask(key);
    const auto value = file_.number(name);
    return !value || *value == 0 ? 0.0F : positive_or(key, 0.0F);
}

std::string ModelKeys::text_or(std::string_view key, std::string_view fallback) const {
    return std::string(file_.text(ask(key)).value_or(fallback));
}

void ModelKeys::pass_over(std::string_view key) const { static_cast<void>(ask(key)); }

void ModelKeys::check_all_used() const {
    const std::string prefix = architecture_ + ".";
    for (const std::string_view name : file_.keys()) {
        if (!name.starts_with(prefix) || asked_.contains(name)) continue;
        const std::string_view key = name.substr(prefix.size());
        if (std::ranges::find(kHarmless, key) != kHarmless.end()) continue;
        const auto neutral = std::ranges::find(kNeutral, key, &Neutral::key);
        if (neutral == kNeutral.end()) {
            throw Error(ErrorCode::kUnsupported,
                        cat("key '", name, "' says something about the model that this program ",
                            "does not compute; without it answers could be wrong"));
        }
        const double value = plain_number(file_, name);
        if (value == neutral->value) continue;
        throw Error(ErrorCode::kUnsupported, cat("key '", name, "' is ", shown(file_, name, value),
                                                 "; only models are computed for which it is ",
                                                 shown(file_, name, neutral->value), " or absent"));
    }
}

}  // namespace palimpsest
