#include "support/layer_tap.h"

#include <cmath>
#include <random>

#include "engine/session.h"
#include "memory/cache/memories.h"

namespace palimpsest::testing {

namespace {

/// Remembers everything, and copies what it is handed.
class Tap final : public ContextMemory {
 public:
    Tap(std::unique_ptr<ContextMemory> inner, const ModelConfig& config,
        std::vector<TappedLayer>& to)
        : inner_(std::move(inner)), adjacent_(config.rope_adjacent), to_(to) {}

    uint64_t plan(const Step& step) override { return inner_->plan(step); }
    Tensor attend(Graph& g, const AttentionInputs& in) override {
        const auto copy = [&g](Tensor t) { return g.output(ggml_cont(g.ctx(), t)); };
        tapped_.push_back({copy(in.hidden), copy(in.q_raw), copy(in.q), copy(in.k), copy(in.v)});
        shape_ = {.n_embd = in.hidden->ne[0],
                  .n_head = in.q->ne[1],
                  .n_head_kv = in.k->ne[1],
                  .d_head = in.q->ne[0],
                  .scale = in.scale};
        return inner_->attend(g, in);
    }
    void settle(const Step& step) override {
        inner_->settle(step);
        for (auto& [hidden, q_raw, q, k, v] : tapped_) {
            to_.push_back({.shape = shape_,
                           .hidden = Graph::read(hidden),
                           .q_raw = in_halves(Graph::read(q_raw)),
                           .q = in_halves(Graph::read(q)),
                           .k = in_halves(Graph::read(k)),
                           .v = Graph::read(v)});
        }
    }
    void reset() override { inner_->reset(); }
    [[nodiscard]] MemoryUsage usage() const override { return inner_->usage(); }
    [[nodiscard]] MemoryReport report() const override { return inner_->report(); }

 private:
    struct Tapped {
        Tensor hidden, q_raw, q, k, v;
    };

    [[nodiscard]] std::vector<float> in_halves(std::vector<float> heads) const {
        if (!adjacent_) return heads;
        std::vector<float> out(heads.size());
        const auto d = static_cast<size_t>(shape_.d_head);
        for (size_t i = 0; i < heads.size(); ++i) {
            const size_t c = i % d;
            out[i - c + c % 2 * d / 2 + c / 2] = heads[i];
        }
        return out;
    }

    std::unique_ptr<ContextMemory> inner_;
    bool adjacent_;
    AttentionShape shape_;
    std::vector<Tapped> tapped_;
    std::vector<TappedLayer>& to_;
};

}  // namespace

LayerRecord TappedLayer::record(int64_t n_prompt) const {
    return {.shape = shape,
            .n = std::ssize(hidden) / shape.n_embd,
            .n_prompt = n_prompt,
            .hidden = hidden,
            .q_raw = q_raw,
            .q = q,
            .k = k,
            .v = v};
}

std::vector<TappedLayer> tap_layers(const LoadedModel& model, Backend& backend,
                                    const std::vector<TokenId>& tokens) {
    std::vector<TappedLayer> layers;
    const auto n = static_cast<int64_t>(tokens.size());
    auto cache = make_memory("kv", backend, model.config().memory_shape(),
                             {.n_ctx = n, .entries = GGML_TYPE_F32});
    Session session(model.model(), backend,
                    std::make_unique<Tap>(std::move(cache), model.config(), layers),
                    {.n_chunk = n});
    session.feed(tokens);
    return layers;
}

TappedLayer random_layer(const AttentionShape& shape, int64_t n, uint32_t seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    const auto numbers = [&](int64_t count) {
        std::vector<float> x(static_cast<size_t>(count));
        for (float& y : x) y = normal(engine);
        return x;
    };
    TappedLayer layer;
    layer.shape = shape;
    layer.hidden = numbers(n * shape.n_embd);
    layer.q_raw = numbers(n * shape.n_query_channels());
    layer.q = numbers(n * shape.n_query_channels());
    layer.k = numbers(n * shape.n_head_kv * shape.d_head);
    layer.v = numbers(n * shape.n_head_kv * shape.d_head);
    return layer;
}

}  // namespace palimpsest::testing
