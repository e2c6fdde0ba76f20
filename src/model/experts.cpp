#include "model/experts.h"

#include "core/error.h"

namespace palimpsest {

namespace {

// The weights of those used add up to so much at least, before they are divided by it, as libllama
// has it.
constexpr float kLeastSum = 6.103515625e-5F;
constexpr float kMostSum = 2.0F;

Linear as_linear(Tensor weight) { return {.weight = weight}; }

ExpertWeights load_experts(Weights& w, const ModelConfig& cfg, int64_t i) {
    const auto name = [i](const char* part) { return cat("blk.", i, ".", part, ".weight"); };
    const ExpertSizes& e = cfg.experts;
    ExpertWeights x = {.router = as_linear(w.matrix(name("ffn_gate_inp"), cfg.n_embd, e.n)),
                       .gate = w.matrices(name("ffn_gate_exps"), cfg.n_embd, e.n_ff, e.n),
                       .up = w.matrices(name("ffn_up_exps"), cfg.n_embd, e.n_ff, e.n),
                       .down = w.matrices(name("ffn_down_exps"), e.n_ff, cfg.n_embd, e.n),
                       .n_used = e.n_used};
    if (e.n_ff_shared == 0) return x;
    const auto shared = [&](const char* part, int64_t n_in, int64_t n_out) {
        return as_linear(w.matrix(name(part), n_in, n_out));
    };
    x.shared = {.gate = shared("ffn_gate_shexp", cfg.n_embd, e.n_ff_shared),
                .up = shared("ffn_up_shexp", cfg.n_embd, e.n_ff_shared),
                .down = shared("ffn_down_shexp", e.n_ff_shared, cfg.n_embd)};
    if (w.has(name("ffn_gate_inp_shexp"))) {
        x.shared_gate = shared("ffn_gate_inp_shexp", cfg.n_embd, 1);
    }
    return x;
}

/// Which experts each position uses [n_used, n] i32, and what each counts [1, n_used, n].
struct Routing {
    Tensor chosen, weights;
};

Routing route(const Pass& p, const ExpertWeights& w, Tensor x) {
    ggml_context* c = p.g.ctx();
    const int64_t n = x->ne[1];
    Tensor shares = ggml_soft_max(c, p.products.of(p.g, w.router, x, p.is_many(x)));
    Tensor chosen = ggml_argsort_top_k(c, shares, static_cast<int>(w.n_used));
    Tensor all = ggml_reshape_3d(c, shares, 1, shares->ne[0], n);
    Tensor weights = ggml_reshape_2d(c, ggml_get_rows(c, all, chosen), w.n_used, n);
    Tensor sums = ggml_clamp(c, ggml_sum_rows(c, weights), kLeastSum, kMostSum);
    weights = ggml_div(c, weights, sums);
    return {.chosen = chosen, .weights = ggml_reshape_3d(c, weights, 1, w.n_used, n)};
}

Tensor experts(const Pass& p, const ExpertWeights& w, Tensor x) {
    ggml_context* c = p.g.ctx();
    const int64_t n = x->ne[1];
    const Routing r = route(p, w, x);
    Tensor in = ggml_reshape_3d(c, x, x->ne[0], 1, n);
    Tensor gate = ggml_mul_mat_id(c, w.gate, in, r.chosen);
    Tensor up = ggml_mul_mat_id(c, w.up, in, r.chosen);
    Tensor each = ggml_mul_mat_id(c, w.down, ggml_swiglu_split(c, gate, up), r.chosen);
    each = ggml_mul(c, each, r.weights);
    Tensor sum = nullptr;
    for (int64_t i = 0; i < w.n_used; ++i) {
        Tensor one = ggml_view_2d(c, each, each->ne[0], n, each->nb[2],
                                  static_cast<size_t>(i) * each->nb[1]);
        sum = sum == nullptr ? one : ggml_add(c, sum, one);
    }
    return w.n_used == 1 ? ggml_cont(c, sum) : sum;
}

}  // namespace

FeedForward load_any_feed_forward(Weights& w, const ModelConfig& cfg, int64_t i) {
    if (cfg.experts.n == 0) return {.dense = load_feed_forward(w, cfg, i)};
    return {.experts = load_experts(w, cfg, i)};
}

Tensor any_feed_forward(const Pass& p, const FeedForward& f, Tensor x) {
    if (f.experts.n_used == 0) return feed_forward(p, f.dense, Gating::kSilu, x);
    const ExpertWeights& w = f.experts;
    ggml_context* c = p.g.ctx();
    Tensor y = experts(p, w, x);
    if (w.shared.up.weight == nullptr) return y;
    Tensor shared = feed_forward(p, w.shared, Gating::kSilu, x);
    if (w.shared_gate.weight != nullptr) {
        Tensor gate = p.products.of(p.g, w.shared_gate, x, p.is_many(x));
        shared = ggml_mul(c, shared, ggml_sigmoid(c, gate));
    }
    return ggml_add(c, y, shared);
}

}  // namespace palimpsest
