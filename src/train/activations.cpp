#include "train/activations.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "core/error.h"
#include "memory/cache/kv_cache.h"

namespace palimpsest {

namespace {

constexpr float kMostHalf = 65504;  // the largest f16

/// A tensor of a step, and the rows of an example that it goes to. Its positions run along
/// dimension 1, [width, n], or 2, [d, heads, n].
struct Tapped {
    Tensor from = nullptr;
    int dimension = 2;
    std::vector<ggml_fp16_t>* to = nullptr;  // has room for all positions
};

std::vector<Tensor> sources_of(std::span<const Tapped> tapped) {
    std::vector<Tensor> sources;
    for (const Tapped& t : tapped) sources.push_back(t.from);
    return sources;
}

/// Copies a step's positions to where they belong.
class TapOp final : public CustomOp {
 public:
    /// `first` is read when the graph runs: the step's first position; below 0: nothing is noted.
    TapOp(std::vector<Tapped> tapped, const int64_t& first)
        : tapped_(std::move(tapped)), first_(first) {}

    void run(ggml_tensor* dst, int thread, int n_threads) noexcept override {
        if (first_ < 0) return;
        for (size_t s = 0; s < tapped_.size(); ++s) {
            const ggml_tensor* from = dst->src[s];
            const int64_t n = from->ne[tapped_[s].dimension];
            for (int64_t i = thread; i < n; i += n_threads) copy_position(from, tapped_[s], i);
        }
    }

 private:
    void copy_position(const ggml_tensor* from, const Tapped& as, int64_t i) const {
        const int64_t n_runs = as.dimension == 2 ? from->ne[1] : 1;
        ggml_fp16_t* to = as.to->data() + (first_ + i) * n_runs * from->ne[0];
        for (int64_t run = 0; run < n_runs; ++run) {
            const char* at = static_cast<const char*>(from->data) +
                             static_cast<size_t>(i) * from->nb[as.dimension] +
                             static_cast<size_t>(run) * from->nb[1];
            const auto* values = reinterpret_cast<const float*>(at);
            for (int64_t c = 0; c < from->ne[0]; ++c) {
                *to++ = ggml_fp32_to_fp16(std::clamp(values[c], -kMostHalf, kMostHalf));
            }
        }
    }

    std::vector<Tapped> tapped_;
    const int64_t& first_;
};

/// A cache that also notes what attention layers are given, except in rehearsals.
class TappedMemory final : public ContextMemory {
 public:
    TappedMemory(std::unique_ptr<KvCache> inner, const MemoryShape& shape, const Captured& wanted,
                 Example& to)
        : inner_(std::move(inner)), shape_(shape), wanted_(wanted), to_(to) {}

    std::vector<Segment> admit(std::vector<Segment> prompt) override {
        return inner_->admit(std::move(prompt));
    }
    uint64_t plan(const Step& step) override {
        first_ = step.kind == StepKind::kRehearsal ? -1 : inner_->usage().positions_seen;
        return inner_->plan(step);
    }
    Tensor attend(Graph& g, const AttentionInputs& in) override {
        Tensor out = inner_->attend(g, in);
        std::vector<Tapped> tapped = tapped_of(in);
        if (shape_.window(in.layer) == 0 && !tapped.empty()) {
            const std::vector<Tensor> sources = sources_of(tapped);
            g.keep(g.custom({1, 1, 1, 1}, sources,
                            std::make_unique<TapOp>(std::move(tapped), first_)));
        }
        return out;
    }
    void settle(const Step& step) override { inner_->settle(step); }
    void reset() override { inner_->reset(); }
    [[nodiscard]] MemoryUsage usage() const override { return inner_->usage(); }
    [[nodiscard]] MemoryReport report() const override { return inner_->report(); }
    [[nodiscard]] int64_t next_position() const override { return inner_->next_position(); }
    [[nodiscard]] Rehearses rehearses() const override { return inner_->rehearses(); }
    [[nodiscard]] Rehearsed rehearsed() const override { return inner_->rehearsed(); }
    [[nodiscard]] int64_t room() const override { return inner_->room(); }

 private:
    [[nodiscard]] std::vector<Tapped> tapped_of(const AttentionInputs& in) {
        LayerExample& to = to_.layers[static_cast<size_t>(in.layer)];
        std::vector<Tapped> t;
        if (wanted_.hidden) t.push_back({in.hidden, 1, &to.hidden});
        if (wanted_.queries) t.push_back({in.q_raw, 2, &to.q_raw});
        if (wanted_.queries) t.push_back({in.q, 2, &to.q});
        if (wanted_.entries) t.push_back({in.k, 2, &to.k});
        if (wanted_.entries) t.push_back({in.v, 2, &to.v});
        return t;
    }

    std::unique_ptr<KvCache> inner_;
    MemoryShape shape_;
    Captured wanted_;
    Example& to_;
    int64_t first_ = -1;
};

Example room_for(int64_t n, const MemoryShape& shape, const Captured& wanted) {
    Example e = {.n = n, .layers = {}};
    e.layers.resize(static_cast<size_t>(shape.n_layer));
    for (int64_t i = 0; i < shape.n_layer; ++i) {
        if (shape.window(i) > 0) continue;
        LayerExample& of = e.layers[static_cast<size_t>(i)];
        const auto size = [&](bool is_wanted, int64_t width) {
            return static_cast<size_t>(is_wanted ? n * width : 0);
        };
        of.hidden.resize(size(wanted.hidden, shape.n_embd));
        of.q_raw.resize(size(wanted.queries, shape.n_head * shape.d_head));
        of.q.resize(size(wanted.queries, shape.n_head * shape.d_head));
        of.k.resize(size(wanted.entries, shape.n_head_kv * shape.d_head));
        of.v.resize(size(wanted.entries, shape.n_head_kv * shape.d_head));
    }
    return e;
}

/// What the policy scored when it was about to cut: [layer][KV head][entry], entries in order.
void take_scores(const Cut& cut, Example& to) {
    for (size_t layer = 0; layer < to.layers.size(); ++layer) {
        const Scores& of = cut.scores[layer];
        std::vector<float>& scores = to.layers[layer].scores;
        scores.resize(static_cast<size_t>(to.n) * of.size());
        for (size_t h = 0; h < of.size(); ++h) {
            check(std::ssize(of[h]) == to.n, "nothing went before everything was scored");
            for (size_t t = 0; t < of[h].size(); ++t) scores[t * of.size() + h] = of[h][t];
        }
    }
}

void find_cuts(Example& of, int64_t n_head_kv) {
    std::vector<float> all;
    for (const LayerExample& layer : of.layers) {
        if (layer.scores.empty()) continue;
        all.insert(all.end(), layer.scores.begin() + kTrainedSinks * n_head_kv, layer.scores.end());
    }
    std::ranges::sort(all, std::greater());
    for (size_t i = 0; i < kCutShares.size(); ++i) {
        const auto n = static_cast<size_t>(kCutShares.at(i) * static_cast<double>(all.size()));
        of.cuts.at(i) = all.at(std::max<size_t>(n, 1) - 1);
    }
}

}  // namespace

ExampleReader::ExampleReader(const Runtime& engine, const Captured& wanted)
    : engine_(engine), wanted_(wanted) {}

std::optional<Example> ExampleReader::read(std::span<const TokenId> tokens,
                                           const std::function<bool()>& goes_on) {
    const MemoryShape shape = engine_.shape();
    const int64_t n = std::ssize(tokens);
    require(n > kTrainedSinks + 1, "a document of ", n, " tokens is too short to be learnt from");
    Example example = room_for(n, shape, wanted_);
    bool has_scores = false;
    KvCacheOptions options = {.n_ctx = n};
    if (wanted_.scores) {
        // The cut that follows is of no use; it comes when everything has been scored.
        options.eviction.policy = "kvzip";
        options.eviction.allocator = "uniform";
        options.eviction.one_shot = true;
        options.eviction.budget = {.kind = Budget::Kind::kEvicted, .count = 0, .share = 0.5};
        options.on_cut = [&](const Cut& cut) {
            take_scores(cut, example);
            has_scores = true;
        };
    }
    const auto session = engine_.make_session(std::make_unique<TappedMemory>(
        engine_.make_cache(std::move(options)), shape, wanted_, example));
    const auto ask = [&](int64_t /*done*/, int64_t /*total*/) { return !goes_on || goes_on(); };
    const bool is_whole = session->feed(std::vector<TokenId>(tokens.begin(), tokens.end()),
                                        {.on_progress = ask, .on_rehearsal = ask});
    if (!is_whole) return std::nullopt;
    if (wanted_.scores) {
        check(has_scores, "a rehearsed document has been scored");
        find_cuts(example, shape.n_head_kv);
    }
    return example;
}

}  // namespace palimpsest
