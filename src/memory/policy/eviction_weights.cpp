#include "memory/policy/eviction_weights.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/fingerprint.h"
#include "memory/kernels/match_kernel.h"

namespace palimpsest {

namespace {

constexpr int64_t kMostWidth = 4096;  // of features, of a gate's middle

/// The channels of one head in the model's order: source[c] is where channel c stands in the file.
std::vector<int64_t> channel_sources(const MemoryShape& shape, bool file_has_pairs) {
    std::vector<int64_t> source(static_cast<size_t>(shape.d_head));
    for (size_t c = 0; c < source.size(); ++c) source[c] = static_cast<int64_t>(c);
    const Rotation& r = shape.rotation;
    if (r.adjacent == file_has_pairs) return source;
    const auto half = static_cast<int64_t>(r.frequency.size());
    for (int64_t i = 0; i < half; ++i) {
        const std::array<int64_t, 2> pair = {2 * i, 2 * i + 1};
        const std::array<int64_t, 2> split = {i, i + half};
        for (size_t p = 0; p < 2; ++p) {
            const auto& to = r.adjacent ? pair : split;
            source[static_cast<size_t>(to.at(p))] = (r.adjacent ? split : pair).at(p);
        }
    }
    return source;
}

float sigmoid(float x) { return 1.0F / (1.0F + std::exp(-x)); }

}  // namespace

/// Reads one file into one EvictionWeights.
class EvictionWeights::Loader {
 public:
    Loader(EvictionWeights& to, const Backend& backend, const MemoryShape& shape)
        : to_(to), backend_(backend), shape_(shape), file_(GgufFile::open(to.path_)) {}

    void load(const BaseModel& base) {
        check_owner(base);
        to_.fingerprint_ = model_fingerprint(file_);
        to_.n_sink_ = count("evict.sink_count", 4, 0, 1 << 20);
        const std::string_view order = text("evict.channel_order", "half_split");
        const bool has_pairs = order == "pairs";
        if (!has_pairs && order != "half_split") {
            refuse(cat("has channels in the order '", order, "'; known are half_split and pairs"));
        }
        sources_ = channel_sources(shape_, has_pairs);
        to_.storage_ = std::make_unique<Storage>(static_cast<size_t>(16 * shape_.n_layer + 16));
        if (has_part("indexer_q.weight")) load_indexer();
        if (has_part("memory_phi.weight") || has_part("memory_key.weight")) load_latent();
        if (has_part("gate_in.weight")) load_gate();
        if (!to_.indexer_ && !to_.latent_ && !to_.gate_) {
            refuse("holds neither an indexer nor a latent memory nor a gate");
        }
        place();
        note_unfinished();
    }

 private:
    void note_unfinished() const {
        for (const char* part : {"indexer", "memory", "gate"}) {
            const auto at = file_.text(cat("evict.", part, ".unfinished"));
            if (!at) continue;
            to_.warning_ += cat(to_.warning_.empty() ? "" : "; ", "the training of the ", part,
                                " in '", to_.path_, "' was stopped at ", *at);
        }
    }

    [[noreturn]] void refuse(const std::string& what) const {
        throw Error(ErrorCode::kCorrupt, cat("the sidecar '", to_.path_, "' ", what));
    }

    void check_owner(const BaseModel& base) {
        if (text("general.architecture", "") != "evict") {
            refuse("is no sidecar for evicting: its architecture is not 'evict'");
        }
        const std::string_view architecture = text("evict.base_architecture", base.architecture);
        const int64_t n_layer = count("evict.block_count", shape_.n_layer, 1, 1 << 20);
        const auto made_for = file_.text("evict.base_fingerprint");
        const bool fits = architecture == base.architecture && n_layer == shape_.n_layer &&
                          (!made_for || *made_for == base.fingerprint);
        require(fits, "the sidecar '", to_.path_, "' was made for another model (", architecture,
                ", ", n_layer, " layers, fingerprint ", made_for.value_or("unknown"),
                "); this one is ", base.architecture, ", ", shape_.n_layer, " layers, fingerprint ",
                base.fingerprint,
                ". Name the sidecar of this model, or train one with 'palimpsest train'");
        if (!made_for) {
            to_.warning_ = cat("the sidecar '", to_.path_,
                               "' does not say which model it was made for; only its shapes were "
                               "checked");
        }
    }

    [[nodiscard]] std::string_view text(std::string_view key, std::string_view standard) const {
        return file_.text(key).value_or(standard);
    }
    [[nodiscard]] int64_t count(std::string_view key, int64_t standard, int64_t least,
                                int64_t most) const {
        const int64_t n = file_.integer(key).value_or(standard);
        if (n < least || n > most) {
            refuse(cat("has ", key, " = ", n, "; it must be ", least, " to ", most));
        }
        return n;
    }
    [[nodiscard]] float number(std::string_view key, double standard) const {
        const double x = file_.number(key).value_or(standard);
        if (!(x > 0) || !std::isfinite(x)) {
            refuse(cat("has ", key, " = ", x, "; it must be more than 0"));
        }
        return static_cast<float>(x);
    }

    [[nodiscard]] static std::string name_of(int64_t layer, std::string_view tensor) {
        return cat("blk.", layer, ".", tensor);
    }
    /// Does any layer have it? Those that evict must, all of them: reading finds out.
    [[nodiscard]] bool has_part(std::string_view tensor) const {
        for (int64_t i = 0; i < shape_.n_layer; ++i) {
            if (file_.find_tensor(name_of(i, tensor)) != nullptr) return true;
        }
        return false;
    }
    [[nodiscard]] bool evicts(int64_t layer) const { return shape_.window(layer) == 0; }

    /// Values of a tensor of [n_out][n_in], row after row.
    [[nodiscard]] std::vector<float> values(const std::string& name, int64_t n_in,
                                            int64_t n_out) const {
        const GgufTensor* t = file_.find_tensor(name);
        if (t == nullptr) refuse(cat("has no tensor '", name, "'"));
        const Shape wanted = {n_in, n_out, 1, 1};
        if (t->shape != wanted) {
            refuse(cat("has tensor '", name, "' of shape ", to_string(t->shape),
                       "; this model needs ", to_string(wanted)));
        }
        std::vector<float> out(static_cast<size_t>(n_in * n_out));
        if (t->type == GGML_TYPE_F32) {
            std::memcpy(out.data(), t->data.data(), out.size() * sizeof(float));
        } else {
            const auto to_float = ggml_get_type_traits(t->type)->to_float;
            if (to_float == nullptr) {
                refuse(cat("has tensor '", name, "' of type ", ggml_type_name(t->type)));
            }
            to_float(t->data.data(), out.data(), n_in * n_out);
        }
        for (const float x : out) {
            if (!std::isfinite(x)) refuse(cat("has numbers that are not finite in '", name, "'"));
        }
        return out;
    }

    /// Reorders the channels of every head along the rows of [n_out][n_heads * d_head].
    void reorder(std::vector<float>& rows) const {
        std::vector<float> head(sources_.size());
        for (size_t at = 0; at < rows.size(); at += head.size()) {
            for (size_t c = 0; c < head.size(); ++c) {
                head[c] = rows[at + static_cast<size_t>(sources_[c])];
            }
            std::ranges::copy(head, rows.begin() + static_cast<std::ptrdiff_t>(at));
        }
    }

    Tensor tensor(std::vector<float> data, int64_t n_in, int64_t n_out,
                  ggml_type type = GGML_TYPE_F32) {
        Tensor t = to_.storage_->add(type, {n_in, n_out, 1, 1});
        placed_.emplace_back(t, std::move(data));
        return t;
    }
    /// f16 where the file has it so: a token reads all of it.
    Tensor matrix(int64_t layer, std::string_view name, int64_t n_in, int64_t n_out) {
        return tensor(values(name_of(layer, name), n_in, n_out), n_in, n_out,
                      kept_type(layer, name));
    }
    [[nodiscard]] ggml_type kept_type(int64_t layer, std::string_view name) const {
        const GgufTensor* t = file_.find_tensor(name_of(layer, name));
        return t != nullptr && t->type == GGML_TYPE_F16 ? GGML_TYPE_F16 : GGML_TYPE_F32;
    }
    Tensor optional_vector(int64_t layer, std::string_view name, int64_t n) {
        const std::string full = name_of(layer, name);
        return file_.find_tensor(full) == nullptr ? nullptr : tensor(values(full, n, 1), n, 1);
    }
    NormWeights norm(int64_t layer, std::string_view name, int64_t n) {
        return {.weight = tensor(values(name_of(layer, cat(name, ".weight")), n, 1), n, 1),
                .bias = optional_vector(layer, cat(name, ".bias"), n)};
    }

    void place() {
        if (placed_.empty()) return;  // nothing but an indexer has tensors
        to_.storage_->commit(backend_);
        std::vector<ggml_fp16_t> halves;
        for (const auto& [t, data] : placed_) {
            if (t->type == GGML_TYPE_F16) {
                halves.resize(data.size());
                ggml_fp32_to_fp16_row(data.data(), halves.data(), std::ssize(data));
                ggml_backend_tensor_set(t, halves.data(), 0, halves.size() * sizeof(ggml_fp16_t));
            } else {
                ggml_backend_tensor_set(t, data.data(), 0, data.size() * sizeof(float));
            }
        }
    }

    [[nodiscard]] NormKind norm_kind() const {
        const std::string_view name = text("evict.indexer.norm", "rms");
        if (name == "rms") return NormKind::kRms;
        if (name == "layer") return NormKind::kLayer;
        refuse(cat("has the norm '", name, "'; known are rms and layer"));
    }

    [[nodiscard]] Activation activation() const {
        const std::string_view wanted = text("evict.indexer.activation", "relu");
        if (const auto found = find_activation(wanted)) return *found;
        refuse(cat("has the activation '", wanted,
                   "'; known are relu, leaky_relu, softplus and identity"));
    }

    /// Each group has its own heads, and its own heads of the model.
    [[nodiscard]] int64_t group_count(int64_t n_head) const {
        const int64_t n = count("evict.indexer.group_count", 1, 1, shape_.n_head_kv);
        if (n_head % n != 0 || shape_.n_head_kv % n != 0) {
            refuse(cat("has evict.indexer.group_count = ", n, "; it must divide the indexer's ",
                       n_head, " heads and the model's ", shape_.n_head_kv, " KV heads"));
        }
        return n;
    }

    void load_indexer() {
        auto w = std::make_unique<IndexerWeights>();
        w->n_head = count("evict.indexer.head_count", 0, 1, kMostIndexHeads);
        w->d_head = count("evict.indexer.key_length", 0, kLeastIndexWidth, kMostIndexWidth);
        w->n_group = group_count(w->n_head);
        w->n_recent = count("evict.indexer.recent_count", 0, 0, 1 << 20);
        w->allocator = text("evict.indexer.allocator", "");
        w->norm = norm_kind();
        w->epsilon = number("evict.indexer.norm_epsilon", w->norm == NormKind::kRms ? 1e-6 : 1e-5);
        w->activation = activation();
        w->is_causal = file_.boolean("evict.indexer.causal").value_or(true);
        const int64_t n_q = shape_.n_head * shape_.d_head;
        const int64_t n_index = w->n_head * w->d_head;
        w->layers.resize(static_cast<size_t>(shape_.n_layer));
        for (int64_t i = 0; i < shape_.n_layer; ++i) {
            if (!evicts(i)) continue;
            std::vector<float> q = values(name_of(i, "indexer_q.weight"), n_q, n_index);
            reorder(q);
            w->layers[static_cast<size_t>(i)] = {
                .q = tensor(std::move(q), n_q, n_index, kept_type(i, "indexer_q.weight")),
                .k = matrix(i, "indexer_k.weight", shape_.n_embd, w->d_head),
                .k_bias = optional_vector(i, "indexer_k.bias", w->d_head),
                .head = matrix(i, "indexer_head.weight", shape_.n_embd, w->n_head),
                .head_bias = optional_vector(i, "indexer_head.bias", w->n_head),
                .q_norm = norm(i, "indexer_q_norm", w->d_head),
                .k_norm = norm(i, "indexer_k_norm", w->d_head),
                .bias = values_or_zero(name_of(i, "indexer_bias"), w->n_group)};
        }
        to_.indexer_ = std::move(w);
    }

    [[nodiscard]] LatentForm latent_form() const {
        const std::string_view form = text("evict.memory.form", "residual");
        if (form == "residual") return LatentForm::kResidual;
        if (form == "softmax") return LatentForm::kSoftmax;
        refuse(cat("has a latent memory of the form '", form, "'; known are residual and softmax"));
    }

    HeadMap head_map(int64_t layer, std::string_view name, int64_t n_feature) {
        const int64_t n_row = n_feature * shape_.n_head_kv;
        HeadMap map = {
            .weight = values(name_of(layer, cat("memory_", name, ".weight")), shape_.d_head, n_row),
            .bias = values(name_of(layer, cat("memory_", name, ".bias")), n_row, 1)};
        reorder(map.weight);
        map.weight = channels_first(map.weight, n_feature);
        return map;
    }

    /// [heads][n_feature][d_head] to [heads][d_head][n_feature].
    [[nodiscard]] std::vector<float> channels_first(const std::vector<float>& from,
                                                    int64_t n_feature) const {
        const auto n = static_cast<size_t>(n_feature);
        const auto d = static_cast<size_t>(shape_.d_head);
        std::vector<float> to(from.size());
        for (size_t i = 0; i < from.size(); ++i) {
            const size_t head = i / (n * d);
            const size_t in_head = i % (n * d);
            to[(head * d + in_head % d) * n + in_head / d] = from[i];
        }
        return to;
    }

    void load_latent() {
        auto w = std::make_unique<LatentWeights>();
        w->form = latent_form();
        w->n_feature = count("evict.memory.feature_length", 0, 1, kMostWidth);
        w->floor = number("evict.memory.epsilon", 1e-6) / number("evict.memory.eta", 1.0);
        w->clips = file_.boolean("evict.memory.clip").value_or(false);
        if (text("evict.memory.gate", "scalar") != "scalar") {
            refuse("has a gate of the latent memory that is not scalar");
        }
        w->layers.resize(static_cast<size_t>(shape_.n_layer));
        for (int64_t i = 0; i < shape_.n_layer; ++i) {
            if (!evicts(i)) continue;
            LatentLayer& of = w->layers[static_cast<size_t>(i)];
            if (w->form == LatentForm::kSoftmax) {
                of.key = head_map(i, "key", w->n_feature);
                of.query = head_map(i, "query", w->n_feature);
                continue;
            }
            of.phi = values(name_of(i, "memory_phi.weight"), shape_.d_head, w->n_feature);
            reorder(of.phi);
            of.phi = channels_first(of.phi, w->n_feature);
            of.gate = sigmoid(values(name_of(i, "memory_gate.logit"), 1, 1)[0]);
            of.decay = sigmoid(values(name_of(i, "memory_decay.logit"), 1, 1)[0]);
        }
        to_.latent_ = std::move(w);
    }

    [[nodiscard]] std::vector<float> values_or_zero(const std::string& name, int64_t n) const {
        return file_.find_tensor(name) != nullptr ? values(name, n, 1)
                                                  : std::vector<float>(static_cast<size_t>(n));
    }
    [[nodiscard]] LayerNorm layer_norm(int64_t layer, std::string_view name, int64_t n) const {
        return {.weight = values(name_of(layer, cat(name, ".weight")), n, 1),
                .bias = values_or_zero(name_of(layer, cat(name, ".bias")), n)};
    }
    [[nodiscard]] GateOutput gate_output(int64_t layer, std::string_view name,
                                         int64_t n_mid) const {
        const int64_t n = shape_.n_head_kv;
        return {.weight = values(name_of(layer, cat(name, ".weight")), n_mid, n),
                .bias = values_or_zero(name_of(layer, cat(name, ".bias")), n)};
    }

    void load_gate() {
        auto w = std::make_unique<GateWeights>();
        w->n_mid = count("evict.gate.mid_length", 0, 1, kMostWidth);
        w->epsilon = number("evict.gate.norm_epsilon", 1e-5);
        w->layers.resize(static_cast<size_t>(shape_.n_layer));
        for (int64_t i = 0; i < shape_.n_layer; ++i) {
            if (!evicts(i)) continue;
            GateLayer& of = w->layers[static_cast<size_t>(i)];
            of.in_norm = layer_norm(i, "gate_norm", shape_.n_embd);
            of.in_type = kept_type(i, "gate_in.weight");
            of.in.resize(match_bytes(of.in_type, w->n_mid, shape_.n_embd));
            to_tiles(values(name_of(i, "gate_in.weight"), shape_.n_embd, w->n_mid), shape_.n_embd,
                     of.in_type, of.in);
            of.mid_norm = layer_norm(i, "gate_mid_norm", w->n_mid);
            of.magnitude = gate_output(i, "gate_magnitude", w->n_mid);
            if (file_.find_tensor(name_of(i, "gate_retention.weight")) != nullptr) {
                of.retention = gate_output(i, "gate_retention", w->n_mid);
            }
        }
        to_.gate_ = std::move(w);
    }

    EvictionWeights& to_;
    const Backend& backend_;
    const MemoryShape& shape_;
    GgufFile file_;
    std::vector<int64_t> sources_;
    std::vector<std::pair<Tensor, std::vector<float>>> placed_;
};

std::string_view activation_name(Activation activation) {
    for (const auto& [name, value] : kActivations) {
        if (value == activation) return name;
    }
    throw Error(ErrorCode::kInvalidArgument, "an activation without a name");
}

std::optional<Activation> find_activation(std::string_view name) {
    for (const auto& [known, value] : kActivations) {
        if (known == name) return value;
    }
    return std::nullopt;
}

EvictionWeights::EvictionWeights(const std::string& path, const Backend& backend,
                                 const MemoryShape& shape, const BaseModel& base)
    : path_(path) {
    Loader(*this, backend, shape).load(base);
}

}  // namespace palimpsest
