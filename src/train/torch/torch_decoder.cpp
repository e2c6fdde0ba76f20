#include "train/torch/torch_decoder.h"

#include <ggml.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/tensor_values.h"
#include "model/families.h"
#include "model/keys.h"

namespace palimpsest {

namespace {

constexpr double kThinScale = 2;

torch::Tensor in_math(const torch::Tensor& t, TorchMath math) {
    return math == TorchMath::kBf16 ? t.to(torch::kBFloat16) : t;
}

}  // namespace

torch::Tensor read_tensor(const GgufFile& file, const std::string& name) {
    const GgufTensor* t = file.find_tensor(name);
    if (t == nullptr)
        throw Error(ErrorCode::kNotFound, cat("the model has no tensor '", name, "'"));
    std::vector<int64_t> shape;
    for (int d = 1; d >= 0; --d) {
        if (d == 0 || t->shape[1] > 1) shape.push_back(t->shape[static_cast<size_t>(d)]);
    }
    return torch::tensor(tensor_values(*t)).view(shape);
}

void add_tensor(GgufWriter& to, const std::string& name, const torch::Tensor& t, ggml_type type) {
    const torch::Tensor values = t.detach().to(torch::kFloat).contiguous();
    const Shape shape = {values.size(-1), values.dim() == 2 ? values.size(0) : 1, 1, 1};
    const ggml_type stored = stored_type(type, shape);
    const std::span<const float> numbers(values.data_ptr<float>(),
                                         static_cast<size_t>(values.numel()));
    if (stored == GGML_TYPE_F32 || stored == GGML_TYPE_F16) {
        return to.add(name, shape, numbers, stored);
    }
    to.add_made(name, shape, stored, [values, shape, stored](const GgufWriter::Put& put) {
        std::vector<std::byte> bytes(static_cast<size_t>(shape[1]) *
                                     ggml_row_size(stored, shape[0]));
        ggml_quantize_chunk(stored, values.data_ptr<float>(), bytes.data(), 0, shape[1], shape[0],
                            nullptr);
        put(bytes);
    });
}

// ---- TorchLinear --------------------------------------------------------------------------------

void TorchLinear::learn(int64_t rank) {
    is_learnt_ = true;
    if (rank == 0) return;
    const int64_t n_out = weight_.size(0);
    const int64_t n_in = weight_.size(1);
    down_ = torch::randn({rank, n_in}) / std::sqrt(static_cast<float>(n_in));
    up_ = torch::zeros({n_out, rank});
}

void TorchLinear::activate(bool is_active) {
    frozen_ = torch::Tensor();
    for (torch::Tensor& t : parameters()) t.requires_grad_(is_active);
}

torch::Tensor TorchLinear::operator()(const torch::Tensor& x, TorchMath math) const {
    const torch::Tensor in = in_math(x, math);
    torch::Tensor w;
    if (weight_.requires_grad() || math == TorchMath::kF32) {
        w = in_math(weight_, math);
    } else {
        if (!frozen_.defined()) frozen_ = weight_.to(torch::kBFloat16);
        w = frozen_;
    }
    torch::Tensor y = torch::linear(in, w);
    if (!down_.defined()) return y;
    const torch::Tensor thin = torch::linear(in, in_math(down_, math));
    return y + torch::linear(thin, in_math(up_, math)) * kThinScale;
}

std::vector<torch::Tensor> TorchLinear::parameters() const {
    if (!is_learnt_) return {};
    if (down_.defined()) return {down_, up_};
    return {weight_};
}

torch::Tensor TorchLinear::merged() const {
    const torch::NoGradGuard no_grad;
    if (!down_.defined()) return weight_;
    return weight_ + torch::mm(up_, down_) * kThinScale;
}

TorchLinear::Thin TorchLinear::thin() const {
    if (!down_.defined()) return {};
    return {down_.detach(), (up_.detach() * kThinScale).t()};
}

void TorchLinear::start_from(const Thin& thin) {
    const torch::NoGradGuard no_grad;
    down_.copy_(thin.down);
    up_.copy_(thin.up.t() / kThinScale);
}

// ---- TorchDecoder -------------------------------------------------------------------------------

TorchDecoder::TorchDecoder(const GgufFile& file, int64_t n_layer, TorchMath math) : math_(math) {
    const ModelKeys keys(file);
    const Family& family = find_family(keys.architecture());
    if (family.make != make_pre_norm) {
        throw Error(ErrorCode::kUnsupported, cat("models of architecture '", keys.architecture(),
                                                 "' cannot be trained here; plain decoders can"));
    }
    cfg_ = read_config(keys);
    cfg_.rope_adjacent = family.traits.rope_adjacent;
    norms_heads_ = family.traits.norms_heads;
    rotate_ = TorchRotation(cfg_);
    if (n_layer > 0) {
        require(n_layer <= cfg_.n_layer, "the first ", n_layer, " layers of a model of ",
                cfg_.n_layer);
        cfg_.n_layer = n_layer;
    }
    table_ = read_tensor(file, "token_embd.weight");
    norm_ = read_tensor(file, "output_norm.weight");
    head_ =
        file.find_tensor("output.weight") != nullptr ? read_tensor(file, "output.weight") : table_;
    for (int64_t i = 0; i < cfg_.n_layer; ++i) {
        const auto get = [&](const char* name) {
            return read_tensor(file, cat("blk.", i, ".", name, ".weight"));
        };
        if (file.find_tensor(cat("blk.", i, ".attn_q.bias")) != nullptr) {
            throw Error(ErrorCode::kUnsupported, "models with biases cannot be trained here");
        }
        Block b = {.attn_norm = get("attn_norm"),
                   .ffn_norm = get("ffn_norm"),
                   .q_norm = {},
                   .k_norm = {},
                   .q = TorchLinear(get("attn_q")),
                   .k = TorchLinear(get("attn_k")),
                   .v = TorchLinear(get("attn_v")),
                   .o = TorchLinear(get("attn_output")),
                   .gate = TorchLinear(get("ffn_gate")),
                   .up = TorchLinear(get("ffn_up")),
                   .down = TorchLinear(get("ffn_down"))};
        if (norms_heads_) {
            b.q_norm = get("attn_q_norm");
            b.k_norm = get("attn_k_norm");
        }
        blocks_.push_back(std::move(b));
    }
}

torch::Tensor TorchDecoder::embed(const torch::Tensor& ids) const {
    return torch::embedding(table_, ids);
}

torch::Tensor TorchDecoder::norm(const torch::Tensor& x, const torch::Tensor& weight) const {
    const torch::Tensor squares = x.pow(2).mean(-1, true);
    return x * torch::rsqrt(squares + static_cast<double>(cfg_.norm_eps)) * weight;
}

torch::Tensor TorchDecoder::attend(const Block& b, const torch::Tensor& x, bool is_causal) const {
    const int64_t batch = x.size(0);
    const int64_t n = x.size(1);
    const int64_t group = cfg_.n_head / cfg_.n_head_kv;
    const auto heads = [&](const TorchLinear& w, int64_t n_head) {
        return w(x, math_).view({batch, n, n_head, cfg_.d_head});
    };
    torch::Tensor q = heads(b.q, cfg_.n_head).to(torch::kFloat);
    torch::Tensor k = heads(b.k, cfg_.n_head_kv).to(torch::kFloat);
    if (norms_heads_) {
        q = norm(q, b.q_norm);
        k = norm(k, b.k_norm);
    }
    // [batch * kv heads, group * n, d] against [batch * kv heads, n, d].
    const double scale = 1.0 / std::sqrt(static_cast<double>(cfg_.d_head));
    q = in_math(rotate_(q) * scale, math_)
            .view({batch, n, cfg_.n_head_kv, group, cfg_.d_head})
            .permute({0, 2, 3, 1, 4})
            .reshape({batch * cfg_.n_head_kv, group * n, cfg_.d_head});
    const auto of_kv = [&](const torch::Tensor& t) {
        return t.permute({0, 2, 1, 3}).reshape({batch * cfg_.n_head_kv, n, cfg_.d_head});
    };
    k = of_kv(in_math(rotate_(k), math_));
    const torch::Tensor v = of_kv(heads(b.v, cfg_.n_head_kv));
    torch::Tensor weights = torch::bmm(q, k.transpose(1, 2)).to(torch::kFloat);
    if (is_causal) {
        const torch::Tensor later = torch::ones({n, n}, torch::kBool).triu(1).repeat({group, 1});
        weights = weights.masked_fill(later, -1e30);
    }
    weights = in_math(torch::softmax(weights, -1), math_);
    const torch::Tensor out = torch::bmm(weights, v)
                                  .view({batch, cfg_.n_head_kv, group, n, cfg_.d_head})
                                  .permute({0, 3, 1, 2, 4})
                                  .reshape({batch, n, cfg_.n_head * cfg_.d_head});
    return b.o(out, math_).to(torch::kFloat);
}

torch::Tensor TorchDecoder::states(torch::Tensor x, bool is_causal) const {
    for (const Block& b : blocks_) {
        x = x + attend(b, norm(x, b.attn_norm), is_causal);
        const torch::Tensor y = norm(x, b.ffn_norm);
        const torch::Tensor gated = torch::silu(b.gate(y, math_)) * b.up(y, math_);
        x = x + b.down(gated, math_).to(torch::kFloat);
    }
    return norm(x, norm_);
}

torch::Tensor TorchDecoder::logits(const torch::Tensor& states) const {
    if (math_ == TorchMath::kF32) return torch::linear(states, head_);
    if (!table_bf16_.defined()) table_bf16_ = head_.to(torch::kBFloat16);
    return torch::linear(states.to(torch::kBFloat16), table_bf16_).to(torch::kFloat);
}

std::vector<TorchDecoder::NamedMatrix> TorchDecoder::matrices() const {
    std::vector<NamedMatrix> all;
    for (size_t i = 0; i < blocks_.size(); ++i) {
        Block& b = const_cast<Block&>(blocks_[i]);  // handles: what they hold is shared
        const auto add = [&](const char* name, TorchLinear& m) {
            all.push_back({cat("blk.", i, ".", name), &m});
        };
        add("attn_q", b.q);
        add("attn_k", b.k);
        add("attn_v", b.v);
        add("attn_output", b.o);
        add("ffn_gate", b.gate);
        add("ffn_up", b.up);
        add("ffn_down", b.down);
    }
    return all;
}

void TorchDecoder::learn(int64_t rank) {
    learns_norms_ = rank == 0;
    for (const NamedMatrix& m : matrices()) m.matrix->learn(rank);
}

void TorchDecoder::activate(bool is_active) {
    for (const NamedMatrix& m : matrices()) m.matrix->activate(is_active);
    if (!learns_norms_) return;
    norm_.requires_grad_(is_active);
    for (Block& b : blocks_) {
        b.attn_norm.requires_grad_(is_active);
        b.ffn_norm.requires_grad_(is_active);
    }
}

std::vector<torch::Tensor> TorchDecoder::parameters() const {
    std::vector<torch::Tensor> all;
    for (const NamedMatrix& m : matrices()) {
        const auto own = m.matrix->parameters();
        all.insert(all.end(), own.begin(), own.end());
    }
    if (!learns_norms_) return all;
    all.push_back(norm_);
    for (const Block& b : blocks_) all.insert(all.end(), {b.attn_norm, b.ffn_norm});
    return all;
}

void TorchDecoder::write_thin(GgufWriter& to, const std::string& part) const {
    for (const NamedMatrix& m : matrices()) {
        const TorchLinear::Thin thin = m.matrix->thin();
        add_tensor(to, cat(part, ".", m.name, ".down"), thin.down, GGML_TYPE_Q8_0);
        add_tensor(to, cat(part, ".", m.name, ".up"), thin.up, GGML_TYPE_Q8_0);
    }
}

void TorchDecoder::start_from_thin(const GgufFile& from, const std::string& part) {
    for (const NamedMatrix& m : matrices()) {
        const TorchLinear::Thin own = m.matrix->thin();
        const TorchLinear::Thin theirs = {read_tensor(from, cat(part, ".", m.name, ".down")),
                                          read_tensor(from, cat(part, ".", m.name, ".up"))};
        require(theirs.down.sizes() == own.down.sizes() && theirs.up.sizes() == own.up.sizes(),
                "additions to the ", part, "'s ", m.name, " have another rank than this training");
        m.matrix->start_from(theirs);
    }
}

void TorchDecoder::write(const GgufFile& file, const std::string& name, ggml_type type,
                         const std::string& path) const {
    GgufWriter to;
    to.copy_keys(file);
    to.set_text("general.name", name);
    to.set_count(cat(cfg_.architecture, ".block_count"), static_cast<uint32_t>(cfg_.n_layer));
    add_tensor(to, "token_embd.weight", table_, type);
    add_tensor(to, "output_norm.weight", norm_, type);
    if (!head_.is_same(table_)) add_tensor(to, "output.weight", head_, type);
    for (int64_t i = 0; i < cfg_.n_layer; ++i) {
        const Block& b = blocks_[static_cast<size_t>(i)];
        const auto add = [&](const char* part, const torch::Tensor& t) {
            add_tensor(to, cat("blk.", i, ".", part, ".weight"), t, type);
        };
        add("attn_norm", b.attn_norm);
        add("ffn_norm", b.ffn_norm);
        add("attn_q", b.q.merged());
        add("attn_k", b.k.merged());
        add("attn_v", b.v.merged());
        add("attn_output", b.o.merged());
        add("ffn_gate", b.gate.merged());
        add("ffn_up", b.up.merged());
        add("ffn_down", b.down.merged());
        if (!norms_heads_) continue;
        add("attn_q_norm", b.q_norm);
        add("attn_k_norm", b.k_norm);
    }
    if (file.find_tensor("rope_freqs.weight") != nullptr) {
        add_tensor(to, "rope_freqs.weight", read_tensor(file, "rope_freqs.weight"), type);
    }
    to.write(path);
}

}  // namespace palimpsest
