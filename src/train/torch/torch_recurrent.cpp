#include "train/torch/torch_recurrent.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "memory/recurrent/bank_read_out.h"
#include "model/keys.h"
#include "model/recurrent_layers.h"
#include "train/torch/torch_decoder.h"

namespace palimpsest {

namespace {

constexpr double kLeastStep = 1e-3, kMostStep = 0.1;  // dt begins between
constexpr int64_t kContextLength = 1 << 20;           // it forgets nothing by position

torch::Tensor made(std::vector<int64_t> shape, double deviation) {
    return torch::randn(shape) * deviation;
}

/// [n_out, n_in]
torch::Tensor made_matrix(int64_t n_out, int64_t n_in) {
    return made({n_out, n_in}, 1.0 / std::sqrt(static_cast<double>(n_in)));
}

/// Biases whose softplus lies evenly, by logarithm, between the first steps.
torch::Tensor made_steps(int64_t n) {
    const torch::Tensor dt =
        torch::exp(torch::rand({n}) * std::log(kMostStep / kLeastStep) + std::log(kLeastStep));
    return dt + torch::log(-torch::expm1(-dt));
}

/// [.., n_key_head, d] for as many heads: heads take turns with key heads, or stand together.
torch::Tensor for_heads(const torch::Tensor& x, int64_t n_head, bool alternate) {
    const int64_t each = n_head / x.size(2);
    if (each == 1) return x;
    return alternate ? x.repeat({1, 1, each, 1}) : x.repeat_interleave(each, 2);
}

}  // namespace

TorchRecurrent::TorchRecurrent(const LinearShape& shape, const LinearMixing& mixing)
    : shape_(shape), mixing_(mixing) {
    LinearShape& s = shape_;
    if (s.n_key_head == 0) s.n_key_head = s.n_head;
    check_shape();
    rule_ = s.base == "mamba2" ? StateRule::kScalarDecay : StateRule::kGatedDelta;
    const int64_t inner = s.n_head * s.d_value;
    const int64_t channels = inner + 2 * s.n_key_head * s.d_key;
    table_ = made({s.n_vocab, s.n_embd}, 0.02);
    norm_ = torch::ones({s.n_embd});
    head_ = table_;
    for (int64_t i = 0; i < s.n_layer; ++i) {
        Block b;
        b.norm = torch::ones({s.n_embd});
        if (rule_ == StateRule::kScalarDecay) {
            b.in = made_matrix(inner + channels + s.n_head, s.n_embd);
            b.conv_bias = torch::zeros({channels});
            b.skip = torch::ones({s.n_head});
            b.inner_norm = torch::ones({inner});
        } else {
            b.qkv = made_matrix(channels, s.n_embd);
            b.gate = made_matrix(inner, s.n_embd);
            b.write = made_matrix(s.n_head, s.n_embd);
            b.decay = made_matrix(s.n_head, s.n_embd);
            b.inner_norm = torch::ones({s.d_value});
            b.ffn_norm = torch::ones({s.n_embd});
            b.ffn_gate = made_matrix(s.n_ff, s.n_embd);
            b.ffn_up = made_matrix(s.n_ff, s.n_embd);
            b.ffn_down = made_matrix(s.n_embd, s.n_ff);
        }
        b.conv = made({channels, s.n_taps}, 1.0 / std::sqrt(static_cast<double>(s.n_taps)));
        b.dt_bias = made_steps(s.n_head);
        b.a_log = torch::log(torch::rand({s.n_head}) * s.fastest_decay + 1e-4);
        b.out = made_matrix(s.n_embd, inner);
        blocks_.push_back(std::move(b));
    }
    add_weights();
}

TorchRecurrent::TorchRecurrent(const GgufFile& file, const LinearMixing& mixing)
    : mixing_(mixing), is_read_(true) {
    const ModelKeys keys(file);
    const std::string& family = keys.architecture();
    if (family != "mamba2" && family != "qwen35") {
        throw Error(ErrorCode::kUnsupported,
                    cat("trained here are models of mamba2 and qwen35, not ", family));
    }
    const StateSizes sizes = read_state_sizes(keys);
    rule_ = family == "mamba2" ? StateRule::kScalarDecay : StateRule::kGatedDelta;
    eps_ = keys.positive_or("attention.layer_norm_rms_epsilon", eps_);
    if (rule_ == StateRule::kGatedDelta) {
        const ModelConfig cfg = read_config(keys);
        n_head_ = cfg.n_head;
        n_head_kv_ = cfg.n_head_kv;
        d_head_ = cfg.d_head;
        rotate_ = TorchRotation(cfg);
    }
    table_ = read_tensor(file, "token_embd.weight");
    norm_ = read_tensor(file, "output_norm.weight");
    const bool is_tied = file.find_tensor("output.weight") == nullptr;
    head_ = is_tied ? table_ : read_tensor(file, "output.weight");
    shape_ = {.base = family == "mamba2" ? "mamba2" : "gated-delta",
              .n_vocab = table_.size(0),
              .n_layer = keys.count("block_count", {1, 1024}),
              .n_embd = table_.size(1),
              .n_head = sizes.n_head,
              .d_key = sizes.d_key,
              .d_value = sizes.d_value,
              .n_key_head = sizes.n_key_head,
              .n_ff = 0,
              .n_taps = sizes.n_taps};
    for (int64_t i = 0; i < shape_.n_layer; ++i) blocks_.push_back(read_block(file, i));
    if (blocks_.front().ffn_up.defined()) shape_.n_ff = blocks_.front().ffn_up.size(0);
    add_weights();
}

TorchRecurrent::Block TorchRecurrent::read_block(const GgufFile& file, int64_t i) const {
    const auto take = [&](const char* name) {
        return read_tensor(file, cat("blk.", i, ".", name));
    };
    Block b;
    b.norm = take("attn_norm.weight");
    if (rule_ == StateRule::kGatedDelta) {
        b.ffn_norm = take("post_attention_norm.weight");
        b.ffn_gate = take("ffn_gate.weight");
        b.ffn_up = take("ffn_up.weight");
        b.ffn_down = take("ffn_down.weight");
    }
    if (file.find_tensor(cat("blk.", i, ".attn_q.weight")) != nullptr) {
        b.attn_q = take("attn_q.weight");
        b.attn_k = take("attn_k.weight");
        b.attn_v = take("attn_v.weight");
        b.q_norm = take("attn_q_norm.weight");
        b.k_norm = take("attn_k_norm.weight");
        b.out = take("attn_output.weight");
        return b;
    }
    b.conv = take("ssm_conv1d.weight");
    b.dt_bias = take("ssm_dt.bias");
    b.a_log = torch::log(-take("ssm_a").flatten());
    b.inner_norm = take("ssm_norm.weight").flatten();
    b.out = take("ssm_out.weight");
    if (rule_ == StateRule::kScalarDecay) {
        b.in = take("ssm_in.weight");
        b.conv_bias = take("ssm_conv1d.bias");
        b.skip = take("ssm_d").flatten();
    } else {
        b.qkv = take("attn_qkv.weight");
        b.gate = take("attn_gate.weight");
        b.write = take("ssm_beta.weight").view({shape_.n_head, -1});
        b.decay = take("ssm_alpha.weight").view({shape_.n_head, -1});
    }
    return b;
}

void TorchRecurrent::check_shape() const {
    const LinearShape& s = shape_;
    require(s.base == "mamba2" || s.base == "gated-delta", "base '", s.base,
            "'; there are: gated-delta, mamba2");
    const bool is_mamba = s.base == "mamba2";
    require(is_mamba == (s.n_ff == 0), is_mamba ? "Mamba-2 has no" : "Gated DeltaNet needs a",
            " feed-forward part");
    require(s.n_vocab > 0 && s.n_layer > 0 && s.n_embd > 0 && s.n_head > 0 && s.d_key > 0 &&
                s.d_value > 0 && s.n_taps >= 2 && s.n_head % s.n_key_head == 0,
            "a model of ", s.n_layer, " layers of ", s.n_head, " heads of ", s.d_key, " by ",
            s.d_value, " is none");
}

/// Nothing is changed by them yet.
void TorchRecurrent::add_weights() {
    for (Block& b : blocks_) {
        b.threshold = mixing_.bank.threshold;
        if (!mixing_.learns_weights || b.attn_q.defined()) continue;
        b.weigh = torch::zeros({shape_.n_head * mixing_.bank.n_states, shape_.n_embd});
        b.weigh_scale = torch::ones({shape_.n_head, mixing_.bank.n_states});
    }
}

// ---- what is computed ---------------------------------------------------------------------------

torch::Tensor TorchRecurrent::norm(const torch::Tensor& x, const torch::Tensor& weight) const {
    return x * torch::rsqrt(x.pow(2).mean(-1, true) + eps_) * weight;
}

/// [batch, n, n_channels]; SiLU after it.
torch::Tensor TorchRecurrent::convolve(const Block& b, const torch::Tensor& x) const {
    const torch::Tensor padded = torch::constant_pad_nd(x.transpose(1, 2), {shape_.n_taps - 1, 0});
    return torch::silu(torch::conv1d(padded, b.conv.unsqueeze(1), b.conv_bias, at::IntArrayRef{1},
                                     at::IntArrayRef{0}, at::IntArrayRef{1}, x.size(2))
                           .transpose(1, 2));
}

/// Softmax over the last positions, without regard to how far they are.
torch::Tensor TorchRecurrent::look_back(const BankTensors& in) const {
    const int64_t n = in.q.size(1);
    const torch::Tensor q = in.q.transpose(1, 2);
    const torch::Tensor k = in.k.transpose(1, 2);
    const torch::Tensor at = torch::arange(n);
    const torch::Tensor behind = at.unsqueeze(1) - at.unsqueeze(0);
    const torch::Tensor hidden = behind.lt(0).logical_or(behind.ge(mixing_.window));
    const torch::Tensor scores = torch::matmul(q, k.transpose(2, 3))
                                     .masked_fill(hidden, -std::numeric_limits<float>::infinity());
    return torch::matmul(torch::softmax(scores, -1), in.v.transpose(1, 2)).transpose(1, 2);
}

/// [batch, n, n_head, d_value]; x is what a token's weights are told from.
torch::Tensor TorchRecurrent::read(const Block& b, const torch::Tensor& x, BankTensors in,
                                   const Given& given) const {
    if (mixing_.window > 0) return look_back(in);
    if (b.weigh.defined()) {
        const torch::Tensor raw =
            torch::linear(x, b.weigh)
                .view({x.size(0), x.size(1), shape_.n_head, mixing_.bank.n_states});
        in.weights = torch::softplus(raw * b.weigh_scale) / std::log(2.0);
    }
    if (mixing_.is_told) in.opens = given.opens;
    BankOptions options = mixing_.bank;
    options.threshold = b.threshold;
    return read_banks(rule_, options, in, given.tally);
}

/// Attention whose output is multiplied with a gate of each head's queries.
torch::Tensor TorchRecurrent::attend(const Block& b, const torch::Tensor& x) const {
    const int64_t batch = x.size(0);
    const int64_t n = x.size(1);
    const torch::Tensor q_and_gate =
        torch::linear(x, b.attn_q).view({batch, n, n_head_, 2 * d_head_});
    const auto of_kv = [&](const torch::Tensor& w) {
        return torch::linear(x, w).view({batch, n, n_head_kv_, d_head_});
    };
    const auto for_all = [&](const torch::Tensor& t) {
        return for_heads(t, n_head_, false).transpose(1, 2);
    };
    const torch::Tensor q =
        rotate_(norm(q_and_gate.slice(3, 0, d_head_), b.q_norm)).transpose(1, 2);
    const torch::Tensor k = for_all(rotate_(norm(of_kv(b.attn_k), b.k_norm)));
    const torch::Tensor later = torch::ones({n, n}, torch::kBool).triu(1);
    const torch::Tensor scores =
        (torch::matmul(q, k.transpose(2, 3)) / std::sqrt(static_cast<double>(d_head_)))
            .masked_fill(later, -1e30);
    const torch::Tensor o =
        torch::matmul(torch::softmax(scores, -1), for_all(of_kv(b.attn_v))).transpose(1, 2);
    return torch::linear((o * torch::sigmoid(q_and_gate.slice(3, d_head_))).flatten(2), b.out);
}

torch::Tensor TorchRecurrent::delta_net(const Block& b, const torch::Tensor& x,
                                        const Given& given) const {
    const LinearShape& s = shape_;
    const int64_t keys = s.n_key_head * s.d_key;
    const torch::Tensor qkv = convolve(b, torch::linear(x, b.qkv));
    const auto heads = [&](int64_t first, int64_t n, int64_t d) {
        return qkv.slice(2, first, first + n * d).reshape({x.size(0), x.size(1), n, d});
    };
    torch::Tensor q = heads(0, s.n_key_head, s.d_key);
    torch::Tensor k = heads(keys, s.n_key_head, s.d_key);
    if (mixing_.window == 0) {
        const auto unit = [this](const torch::Tensor& t) {
            return t * torch::rsqrt(t.pow(2).sum(-1, true) + eps_);
        };
        q = unit(q);
        k = unit(k);
    }
    BankTensors in;
    in.q = for_heads(q / std::sqrt(static_cast<double>(s.d_key)), s.n_head, true);
    in.k = for_heads(k, s.n_head, true);
    in.v = heads(2 * keys, s.n_head, s.d_value);
    in.write = torch::sigmoid(torch::linear(x, b.write));
    in.stays =
        torch::exp(-torch::exp(b.a_log) * torch::softplus(torch::linear(x, b.decay) + b.dt_bias));
    const torch::Tensor o = norm(read(b, x, in, given), b.inner_norm).flatten(2);
    return torch::linear(o * torch::silu(torch::linear(x, b.gate)), b.out);
}

torch::Tensor TorchRecurrent::mamba2(const Block& b, const torch::Tensor& x,
                                     const Given& given) const {
    const LinearShape& s = shape_;
    const int64_t inner = s.n_head * s.d_value;
    const int64_t keys = s.n_key_head * s.d_key;
    const torch::Tensor all = torch::linear(x, b.in);
    const torch::Tensor z = all.slice(2, 0, inner);
    const torch::Tensor xbc = convolve(b, all.slice(2, inner, 2 * inner + 2 * keys));
    const auto heads = [&](int64_t first, int64_t n, int64_t d) {
        return xbc.slice(2, first, first + n * d).reshape({x.size(0), x.size(1), n, d});
    };
    const torch::Tensor dt = torch::softplus(all.slice(2, 2 * inner + 2 * keys) + b.dt_bias);
    const double scale = mixing_.window > 0 ? 1 / std::sqrt(static_cast<double>(s.d_key)) : 1;
    BankTensors in;
    in.q = for_heads(heads(inner + keys, s.n_key_head, s.d_key) * scale, s.n_head, false);
    in.k = for_heads(heads(inner, s.n_key_head, s.d_key), s.n_head, false);
    in.v = heads(0, s.n_head, s.d_value);
    in.write = dt;
    in.stays = torch::exp(-torch::exp(b.a_log) * dt);
    torch::Tensor y = read(b, x, in, given) + in.v * b.skip.unsqueeze(1);
    // The gate first, then the norm, group by group.
    y = (y.flatten(2) * torch::silu(z)).view({x.size(0), x.size(1), s.n_key_head, -1});
    y = norm(y, b.inner_norm.view({s.n_key_head, -1})).flatten(2);
    return torch::linear(y, b.out);
}

torch::Tensor TorchRecurrent::states(const torch::Tensor& ids, const torch::Tensor& opens,
                                     std::vector<BankTally>* tallies) const {
    torch::Tensor x = torch::embedding(table_, ids);
    for (size_t i = 0; i < blocks_.size(); ++i) {
        const Block& b = blocks_[i];
        const Given given = {.opens = opens,
                             .tally = tallies == nullptr ? nullptr : &(*tallies)[i]};
        const torch::Tensor y = norm(x, b.norm);
        x = x + (b.attn_q.defined()                 ? attend(b, y)
                 : rule_ == StateRule::kScalarDecay ? mamba2(b, y, given)
                                                    : delta_net(b, y, given));
        if (!b.ffn_up.defined()) continue;
        const torch::Tensor f = norm(x, b.ffn_norm);
        x = x +
            torch::linear(torch::silu(torch::linear(f, b.ffn_gate)) * torch::linear(f, b.ffn_up),
                          b.ffn_down);
    }
    return norm(x, norm_);
}

torch::Tensor TorchRecurrent::logits(const torch::Tensor& states) const {
    return torch::linear(states, head_);
}

// ---- what is learnt, and files ------------------------------------------------------------------

std::vector<TorchRecurrent::Named> TorchRecurrent::named() const {
    std::vector<Named> all = {{"token_embd.weight", table_, true}, {"output_norm.weight", norm_}};
    if (!head_.is_same(table_)) all.push_back({"output.weight", head_, true});
    for (size_t i = 0; i < blocks_.size(); ++i) {
        const Block& b = blocks_[i];
        const auto add = [&](const char* name, const torch::Tensor& t, bool decays = false,
                             bool weighs = false) {
            if (t.defined()) all.push_back({cat("blk.", i, ".", name), t, decays, weighs});
        };
        add("attn_norm.weight", b.norm);
        add("post_attention_norm.weight", b.ffn_norm);
        add("ffn_gate.weight", b.ffn_gate, true);
        add("ffn_up.weight", b.ffn_up, true);
        add("ffn_down.weight", b.ffn_down, true);
        add("ssm_in.weight", b.in, true);
        add("attn_qkv.weight", b.qkv, true);
        add("attn_gate.weight", b.gate, true);
        add("ssm_beta.weight", b.write, true);
        add("ssm_alpha.weight", b.decay, true);
        add("ssm_conv1d.weight", b.conv, true);
        add("ssm_conv1d.bias", b.conv_bias);
        add("ssm_dt.bias", b.dt_bias);
        add("ssm_a", b.a_log);  // in files -exp of it
        add("ssm_d", b.skip);
        add("ssm_norm.weight", b.inner_norm);
        add("attn_q.weight", b.attn_q, true);
        add("attn_k.weight", b.attn_k, true);
        add("attn_v.weight", b.attn_v, true);
        add("attn_q_norm.weight", b.q_norm);
        add("attn_k_norm.weight", b.k_norm);
        add(b.attn_q.defined() ? "attn_output.weight" : "ssm_out.weight", b.out, true);
        add(kBankWeigh, b.weigh, true, true);
        add(kBankScale, b.weigh_scale, false, true);
    }
    return all;
}

void TorchRecurrent::learn(bool only_weights) {
    only_weights_ = only_weights;
    for (Named& n : named()) n.tensor.requires_grad_(n.weighs || !only_weights);
}

std::vector<torch::Tensor> TorchRecurrent::parameters() const {
    std::vector<torch::Tensor> all;
    for (const Named& n : named()) {
        if (n.weighs || !only_weights_) all.push_back(n.tensor);
    }
    return all;
}

std::vector<TorchAdam::Pace> TorchRecurrent::paces(double decay) const {
    std::vector<TorchAdam::Pace> all;
    for (const Named& n : named()) {
        if (n.weighs || !only_weights_) all.push_back({.decay = n.decays ? decay : 0.0});
    }
    return all;
}

float TorchRecurrent::threshold(int64_t layer) const {
    return blocks_[static_cast<size_t>(layer)].threshold;
}

void TorchRecurrent::set_threshold(int64_t layer, float threshold) {
    blocks_[static_cast<size_t>(layer)].threshold = threshold;
}

int64_t TorchRecurrent::state_bytes() const {
    const LinearShape& s = shape_;
    const int64_t head = mixing_.window > 0 ? mixing_.window * (s.d_key + s.d_value)
                                            : mixing_.bank.n_states * s.d_key * s.d_value;
    const int64_t n_layer =
        std::ranges::count_if(blocks_, [](const Block& b) { return !b.attn_q.defined(); });
    return n_layer * s.n_head * head * static_cast<int64_t>(sizeof(float));
}

void TorchRecurrent::write(GgufWriter& to, ggml_type type) const {
    if (mixing_.window > 0) {
        throw Error(ErrorCode::kUnsupported, "models that look back at a window have no file");
    }
    if (!is_read_) write_keys(to);
    const bool is_mamba = rule_ == StateRule::kScalarDecay;
    for (const Named& n : named()) {
        if (n.weighs) continue;
        const bool is_column = n.name.ends_with(".ssm_d") || n.name.ends_with(".ssm_a");
        torch::Tensor values = n.name.ends_with(".ssm_a") ? -torch::exp(n.tensor) : n.tensor;
        if (is_column && is_mamba) values = values.view({-1, 1});
        if (is_mamba && n.name.ends_with(".ssm_norm.weight"))
            values = values.view({shape_.n_key_head, -1});
        add_tensor(to, n.name, values,
                   n.decays && !n.name.ends_with("conv1d.weight") ? type : GGML_TYPE_F32);
    }
}

void TorchRecurrent::write_keys(GgufWriter& to) const {
    const LinearShape& s = shape_;
    const bool is_mamba = rule_ == StateRule::kScalarDecay;
    const std::string family = is_mamba ? "mamba2" : "qwen35";
    const auto count = [&](const char* key, int64_t n) {
        to.set_count(cat(family, ".", key), static_cast<uint32_t>(n));
    };
    to.set_text("general.architecture", family);
    count("context_length", kContextLength);
    count("embedding_length", s.n_embd);
    count("block_count", s.n_layer);
    count("feed_forward_length", s.n_ff);
    count("vocab_size", s.n_vocab);
    count("ssm.conv_kernel", s.n_taps);
    count("ssm.inner_size", s.n_head * s.d_value);
    count("ssm.state_size", s.d_key);
    count("ssm.time_step_rank", s.n_head);
    count("ssm.group_count", s.n_key_head);
    to.set_number(cat(family, ".attention.layer_norm_rms_epsilon"), eps_);
    if (!is_mamba) {
        // No layer attends; what attending ones would have must be there.
        count("full_attention_interval", s.n_layer + 1);
        count("attention.head_count", 1);
        count("attention.head_count_kv", 1);
        count("attention.key_length", s.d_key);
        count("attention.value_length", s.d_key);
        count("rope.dimension_count", s.d_key);
        to.set_integers(cat(family, ".rope.dimension_sections"),
                        {static_cast<int32_t>(s.d_key), static_cast<int32_t>(s.d_key),
                         static_cast<int32_t>(s.d_key), 0});
    }
}

void TorchRecurrent::write_read_out(GgufWriter& to) const {
    describe_bank(mixing_.bank, to);
    for (size_t i = 0; i < blocks_.size(); ++i) {
        const Block& b = blocks_[i];
        if (b.attn_q.defined()) continue;
        add_tensor(to, cat("blk.", i, ".", kBankThreshold), torch::tensor({b.threshold}),
                   GGML_TYPE_F32);
        if (!b.weigh.defined()) continue;
        add_tensor(to, cat("blk.", i, ".", kBankWeigh), b.weigh, GGML_TYPE_F32);
        add_tensor(to, cat("blk.", i, ".", kBankScale), b.weigh_scale, GGML_TYPE_F32);
    }
}

}  // namespace palimpsest
