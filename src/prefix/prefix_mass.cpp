#include "prefix/prefix_mass.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <tuple>

#include "core/error.h"
#include "engine/rehearsal.h"
#include "engine/session.h"
#include "memory/kernels/attention_state.h"

namespace palimpsest {

namespace {

/// What the queries of one step pay to the entries of one KV head.
class MassOfStep {
 public:
    MassOfStep(const ExactPrefix& exact, AttentionScratch& scratch, Reduce reduce)
        : exact_(exact), scratch_(scratch), reduce_(reduce) {}

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
                     {mass, reduce_}, scratch_.of_thread(thread));
        }
    }

 private:
    const ExactPrefix& exact_;
    AttentionScratch& scratch_;
    Reduce reduce_;
};

}  // namespace

EntryMass traced_mass(const PrefixRuntime& with, const ExactPrefix& exact,
                      std::span<const TraceTokens> traces, Reduce reduce) {
    const MemoryShape& s = exact.shape();
    const int64_t n_heads = s.n_layer * s.n_head_kv;
    EntryMass mass(static_cast<size_t>(n_heads));
    for (int64_t head = 0; head < n_heads; ++head) {
        if (s.window(head / s.n_head_kv) > 0) continue;
        mass[static_cast<size_t>(head)].resize(static_cast<size_t>(exact.size()));
    }
    AttentionScratch scratch(s, with.engine.backend().n_threads());
    const MassOfStep step(exact, scratch, reduce);
    const auto on_step = [&](int64_t /*first*/, int64_t n, std::span<const TracedLayer> layers) {
        with.engine.backend().share_out(n_heads, [&](int64_t head, int thread) {
            if (mass[static_cast<size_t>(head)].empty()) return;
            step.add(head, n, layers[static_cast<size_t>(head / s.n_head_kv)], thread,
                     mass[static_cast<size_t>(head)].data());
        });
    };
    int64_t done = 0;
    for (const TraceTokens& trace : traces) {
        const auto session = with.engine.make_session(std::make_unique<TraceMemory>(
            with.engine.backend(), exact, std::ssize(trace.tokens), PrefixKeys::kPost, on_step));
        session->feed(trace.tokens);
        with.tell("weighing the prefix", ++done, std::ssize(traces));
    }
    return mass;
}

int64_t room_to_repeat(const PrefixRuntime& with, int64_t n) {
    constexpr int64_t kMost = 512;  // of more, what one step traces takes hundreds of megabytes
    const int64_t asking =
        repetition_overhead(rehearsal_texts(with.engine.loaded().require_tokenizer()));
    const int64_t room = with.engine.config().n_ctx_train - n - asking;
    return room < kLeastRepeated ? 0 : std::min(kMost, room);
}

std::vector<TraceTokens> repetitions(const PrefixRuntime& with, std::span<const TokenId> prefix) {
    const int64_t length = std::ssize(prefix);
    const int64_t most = room_to_repeat(with, length);
    require(most > 0, "there is no room to repeat a prefix of ", length, " tokens behind itself");
    const RehearsalTexts texts = rehearsal_texts(with.engine.loaded().require_tokenizer());
    std::vector<TraceTokens> traces;
    for (int64_t at = 0; at < length; at += most) {
        traces.push_back(
            {.tokens = repetition(texts, prefix, at, std::min(length, at + most)), .answer = 0});
    }
    return traces;
}

std::vector<std::vector<int32_t>> heaviest(const EntryMass& mass, int64_t n) {
    std::vector<std::vector<int32_t>> all;
    all.reserve(mass.size());
    for (const std::vector<float>& of : mass) {
        std::vector<int32_t> order(of.size());
        std::iota(order.begin(), order.end(), 0);
        std::ranges::stable_sort(order, std::greater{},
                                 [&](int32_t j) { return of[static_cast<size_t>(j)]; });
        order.resize(std::min(of.size(), static_cast<size_t>(n)));
        std::ranges::sort(order);
        all.push_back(std::move(order));
    }
    return all;
}

std::vector<std::vector<int32_t>> heaviest_of_all(const EntryMass& mass, int64_t n) {
    struct Place {
        float mass;
        int32_t head, entry;
    };
    std::vector<std::vector<int32_t>> all = heaviest(mass, 1);
    std::vector<Place> others;
    int64_t n_firsts = 0;
    for (size_t h = 0; h < mass.size(); ++h) {
        if (mass[h].empty()) continue;
        ++n_firsts;
        // The last of the lightest: that is another one than the first of the heaviest.
        const auto lightest = std::ranges::min_element(mass[h].rbegin(), mass[h].rend());
        const auto least = static_cast<int32_t>(mass[h].rend() - lightest) - 1;
        for (int32_t j = 0; j < static_cast<int32_t>(mass[h].size()); ++j) {
            if (j == all[h].front() || j == least) continue;
            others.push_back({mass[h][static_cast<size_t>(j)], static_cast<int32_t>(h), j});
        }
    }
    const auto is_before = [](const Place& a, const Place& b) {
        return std::tuple(-a.mass, a.head, a.entry) < std::tuple(-b.mass, b.head, b.entry);
    };
    const auto rest = std::min(std::ssize(others), std::max<int64_t>(0, n - n_firsts));
    std::ranges::nth_element(others, others.begin() + rest, is_before);
    for (const Place& p : std::span(others).first(static_cast<size_t>(rest))) {
        all[static_cast<size_t>(p.head)].push_back(p.entry);
    }
    for (std::vector<int32_t>& of : all) std::ranges::sort(of);
    return all;
}

}  // namespace palimpsest
