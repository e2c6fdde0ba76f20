#include "compress/latent_adapter.h"

#include <algorithm>
#include <cstring>

#include "compress/window_memory.h"
#include "core/error.h"
#include "core/finite.h"
#include "model/keys.h"

namespace palimpsest {

namespace {

constexpr std::string_view kArchitecture = "lclm";
constexpr float kEpsilon = 1e-6F;
constexpr int64_t kRowsAtOnce = 1024;  // without attention layers
constexpr ModelKeys::Range kWidths = {1, int64_t{1} << 20};

GgufFile open_adapter(const std::string& path) {
    GgufFile file = GgufFile::open(path);
    const auto architecture = file.text("general.architecture");
    if (architecture != kArchitecture) {
        throw Error(ErrorCode::kCorrupt,
                    cat("'", path, "' is no adapter of latent context: its architecture is '",
                        architecture.value_or(""), "', not '", kArchitecture, "'"));
    }
    return file;
}

/// Of its attention layers.
ModelConfig layers_config(const GgufFile& file, int64_t n_layer, int64_t width) {
    const ModelKeys keys(file);
    ModelConfig c;
    c.architecture = kArchitecture;
    c.n_layer = n_layer;
    c.n_embd = width;
    c.n_head = keys.count("adapter.head_count", kWidths);
    c.n_head_kv = keys.count("adapter.head_count_kv", {1, c.n_head});
    c.d_head = c.n_rot = keys.count("adapter.key_length", {2, kWidths.most});
    c.n_ff = keys.count("adapter.feed_forward_length", kWidths);
    c.rope_base = keys.positive_or("adapter.rope_freq_base", c.rope_base);
    c.norm_eps = keys.positive_or("adapter.rms_epsilon", kEpsilon);
    if (c.n_head % c.n_head_kv != 0 || c.d_head % 2 != 0) {
        throw Error(ErrorCode::kCorrupt, cat("its layers have ", c.n_head, " heads for ",
                                             c.n_head_kv, " of keys, of ", c.d_head, " channels"));
    }
    return c;
}

/// One row of f32 or f16; empty if the file has none.
std::vector<float> row_of(const GgufFile& file, const std::string& name, int64_t width) {
    const GgufTensor* t = file.find_tensor(name);
    if (t == nullptr) return {};
    if (t->shape != Shape{width, 1, 1, 1} || t->type != GGML_TYPE_F32) {
        throw Error(ErrorCode::kCorrupt, cat("tensor '", name, "' is ", ggml_type_name(t->type),
                                             " ", to_string(t->shape), ", not f32 [", width, "]"));
    }
    std::vector<float> row(static_cast<size_t>(width));
    std::memcpy(row.data(), t->data.data(), t->data.size());
    if (!is_finite(row)) {
        throw Error(ErrorCode::kCorrupt, cat("tensor '", name, "' holds what is not a number"));
    }
    return row;
}

}  // namespace

/// "blk.0.attn_q.weight" is "lclm.adapter.blk.0.attn_q.weight" here.
class LatentAdapter::Named final : public Weights {
 public:
    explicit Named(FileWeights& file) : file_(file) {}
    [[nodiscard]] bool has(std::string_view name) const override { return file_.has(own(name)); }
    Tensor values(std::string_view name, const Shape& shape) override {
        return file_.values(own(name), shape);
    }
    Tensor matrix(std::string_view name, int64_t n_in, int64_t n_out) override {
        return file_.matrix(own(name), n_in, n_out);
    }
    Tensor matrices(std::string_view name, int64_t n_in, int64_t n_out, int64_t n) override {
        return file_.matrices(own(name), n_in, n_out, n);
    }
    Tensor table(std::string_view name, int64_t n_columns, int64_t n_rows) override {
        return file_.table(own(name), n_columns, n_rows);
    }

 private:
    static std::string own(std::string_view name) { return cat("lclm.adapter.", name); }
    FileWeights& file_;
};

LatentAdapter::LatentAdapter(const std::string& path, const Backend& backend)
    : path_(path),
      file_(open_adapter(path)),
      weights_(file_, backend, [this](ggml_type type) { return products_.reads_plain(type); }) {
    try {
        form_ = read_compression_form(file_);
        Named w(weights_);
        const int64_t in = form_.pooled_width();
        const int64_t out = form_.decoder_width;
        norm_ = w.vector("norm.weight", in);
        fc1_ = load_linear(w, "fc1", in, out);
        fc2_ = load_linear(w, "fc2", out, out);
        const bool attends_first = form_.adapter == AdapterKind::kAttentionMlp;
        if (form_.n_adapter_layers > 0) load_layers(attends_first ? in : out);
        start_row_ = row_of(file_, "lclm.tag.start", out);
        end_row_ = row_of(file_, "lclm.tag.end", out);
        const bool has_tags = form_.start >= 0 || !(start_row_.empty() || end_row_.empty());
        if (!has_tags) {
            throw Error(ErrorCode::kNotFound,
                        "it has neither tokens ('lclm.token.start', 'lclm.token.end') nor rows "
                        "('lclm.tag.start', 'lclm.tag.end') for what stands around latents");
        }
    } catch (const Error& e) {
        throw Error(e.code(), cat("'", path, "': ", e.what()));
    }
}

void LatentAdapter::load_layers(int64_t width) {
    Named w(weights_);
    cfg_ = layers_config(file_, form_.n_adapter_layers, width);
    for (int64_t i = 0; i < cfg_.n_layer; ++i) {
        layers_.push_back(load_pre_norm_block(w, cfg_, i, true));
    }
}

Tensor LatentAdapter::mlp(const Pass& p, Tensor x) const {
    ggml_context* c = p.g.ctx();
    x = ggml_mul(c, ggml_rms_norm(c, x, kEpsilon), norm_);
    x = products_.of(p.g, fc1_, x, p.many.read);
    return products_.of(p.g, fc2_, ggml_gelu_erf(c, x), p.many.read);
}

Tensor LatentAdapter::layers(const Pass& p, Tensor x) const {
    for (int64_t i = 0; i < cfg_.n_layer; ++i) {
        x = pre_norm_block(p, layers_[static_cast<size_t>(i)], x, i, false);
    }
    return x;
}

std::vector<float> LatentAdapter::run(std::span<const float> pooled, Backend& backend) const {
    constexpr size_t kNodes = 256, kNodesALayer = 64;
    const int64_t n = std::ssize(pooled) / form_.pooled_width();
    std::unique_ptr<WindowMemory> memory;
    std::vector<Lane> lanes(1);
    lanes.front() = {.step = {.n = n}, .runs = {{.rows = pooled}}, .n_logits = 0, .n_hidden = n};
    if (!layers_.empty()) {
        memory = std::make_unique<WindowMemory>(backend, cfg_.memory_shape(), n, true);
        memory->plan(lanes.front().step);
        lanes.front().memory = memory.get();
    }
    // begin_pass() asks for the width of what enters.
    ModelConfig entry = cfg_;
    entry.n_embd = form_.pooled_width();
    Graph g(kNodes + kNodesALayer * layers_.size());
    const Pass in = begin_pass(g, entry, products_, lanes, 1);
    Tensor x = embed(in, nullptr);
    const Pass p = {.g = g,
                    .cfg = cfg_,
                    .products = products_,
                    .lanes = lanes,
                    .positions = in.positions,
                    .n = n,
                    .n_wanted = n,
                    .many = in.many};
    if (form_.adapter == AdapterKind::kAttentionMlp) x = layers(p, x);
    x = mlp(p, x);
    if (form_.adapter == AdapterKind::kMlpAttention) x = layers(p, x);
    g.output(x);
    g.compute(backend);
    return Graph::read(x);
}

std::vector<float> LatentAdapter::apply(std::span<const float> pooled, Backend& backend) const {
    const auto width = static_cast<size_t>(form_.pooled_width());
    check(pooled.size() % width == 0, "pooled states are whole rows");
    std::vector<float> latents;
    latents.reserve(pooled.size() / width * static_cast<size_t>(form_.decoder_width));
    while (!pooled.empty()) {
        const size_t most = layers_.empty() ? kRowsAtOnce * width : pooled.size();
        const auto part = pooled.first(std::min(pooled.size(), most));
        const std::vector<float> some = run(part, backend);
        latents.insert(latents.end(), some.begin(), some.end());
        pooled = pooled.subspan(part.size());
    }
    if (!is_finite(latents)) {
        throw Error(ErrorCode::kCorrupt,
                    cat("what the adapter '", path_, "' computes is not a number, or infinite: ",
                        "its weights or the encoder's are damaged"));
    }
    return latents;
}

}  // namespace palimpsest
