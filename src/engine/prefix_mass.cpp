#include "engine/prefix_mass.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "engine/session.h"
#include "memory/attention_state.h"
#include "memory/scoring_kernel.h"

namespace palimpsest {

namespace {

/// What the queries of one step pay to the entries of one KV head.
class MassOfStep {
 public:
    MassOfStep(const ExactPrefix& exact, AttentionScratch& scratch)
        : exact_(exact), scratch_(scratch) {}

    void add(int64_t head, int64_t n, const TracedLayer& seen, int thread, float* mass) const {
        const MemoryShape& s = exact_.shape();
        const float scale = 1.0F / std::sqrt(static_cast<float>(s.d_head));
        std::vector<QueryRow> rows;
        std::vector<float> lse(static_cast<size_t>(n * s.group()));
        for (int64_t i = 0; i < n; ++i) {
            for (int64_t g = 0; g < s.group(); ++g) {
                const int64_t at = i * s.n_head + head % s.n_head_kv * s.group() + g;
                float& joint = lse[rows.size()];
                joint = join_state({}, seen.lse[static_cast<size_t>(at)], {},
                                   seen.own_lse[static_cast<size_t>(at)]);
                rows.push_back({.q = seen.keys.data() + at * s.d_head,
                                .lse = &joint,
                                .begin = 0,
                                .end = exact_.size()});
            }
        }
        const EntryRows entries = exact_.rows(head / s.n_head_kv, head % s.n_head_kv);
        for (size_t first = 0; first < rows.size(); first += size_t{kMaxRows}) {
            const size_t count = std::min(size_t{kMaxRows}, rows.size() - first);
            add_mass(entries, std::span(rows).subspan(first, count), {0, exact_.size()}, scale,
                     {mass, Reduce::kSum}, scratch_.of_thread(thread));
        }
    }

 private:
    const ExactPrefix& exact_;
    AttentionScratch& scratch_;
};

}  // namespace

std::vector<std::vector<float>> traced_mass(const PrefixRuntime& with, const ExactPrefix& exact,
                                            std::span<const TraceTokens> traces) {
    const MemoryShape& s = exact.shape();
    const int64_t n_heads = s.n_layer * s.n_head_kv;
    std::vector<std::vector<float>> mass(static_cast<size_t>(n_heads),
                                         std::vector<float>(static_cast<size_t>(exact.size())));
    AttentionScratch scratch(s, with.backend.n_threads());
    const MassOfStep step(exact, scratch);
    const auto on_step = [&](int64_t /*first*/, int64_t n, std::span<const TracedLayer> layers) {
        with.backend.share_out(n_heads, [&](int64_t head, int thread) {
            step.add(head, n, layers[static_cast<size_t>(head / s.n_head_kv)], thread,
                     mass[static_cast<size_t>(head)].data());
        });
    };
    int64_t done = 0;
    for (const TraceTokens& trace : traces) {
        Session session(with.loaded.model(), with.backend,
                        std::make_unique<TraceMemory>(with.backend, exact, std::ssize(trace.tokens),
                                                      PrefixKeys::kPost, on_step),
                        {.n_chunk = with.n_chunk});
        session.feed(trace.tokens);
        with.tell("weighing the prefix", ++done, std::ssize(traces));
    }
    return mass;
}

std::vector<std::vector<int32_t>> heaviest(const std::vector<std::vector<float>>& mass, int64_t n) {
    std::vector<std::vector<int32_t>> all;
    all.reserve(mass.size());
    for (const std::vector<float>& of : mass) {
        std::vector<int32_t> order(of.size());
        std::iota(order.begin(), order.end(), 0);
        std::ranges::stable_sort(order, std::greater{},
                                 [&](int32_t j) { return of[static_cast<size_t>(j)]; });
        order.resize(static_cast<size_t>(n));
        std::ranges::sort(order);
        all.push_back(std::move(order));
    }
    return all;
}

}  // namespace palimpsest
