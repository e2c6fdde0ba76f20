#include "memory/eviction/allocation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "memory/policy/eviction_weights.h"

namespace palimpsest {

namespace {

constexpr std::array<AllocatorKind, 7> kKinds = {{
    {"uniform", make_uniform, "every head of every layer the same"},
    {"pyramid", make_pyramid, "more to lower layers, less to upper ones (PyramidKV)"},
    {"adaptive", make_adaptive, "heads of a layer compete for its budget (AdaKV)"},
    {"global", make_global, "all heads of all layers compete (KVzip)"},
    {"mass", make_mass, "heads of a layer keep the same share of the last query's attention",
     "last-query"},
    {"critical", make_critical, "half by score, half by what the output weights see (CriticalKV)"},
    {"critical-adaptive", make_critical_adaptive, "heads compete, then as critical"},
}};

struct Candidate {
    float score;
    int32_t rank;  // 0: protected, 1: safe, 2: the rest
    int32_t position;
    int32_t head;  // over all layers
};

bool before(const Candidate& a, const Candidate& b) {
    if (a.rank != b.rank) return a.rank < b.rank;
    if (a.score != b.score) return a.score > b.score;
    if (a.position != b.position) return a.position < b.position;
    return a.head < b.head;
}

/// One head's entries, its best `safe` ranked above the rest.
void add_candidates(const LayerCandidates& layer, size_t h, int32_t id, int64_t safe,
                    std::vector<Candidate>& all) {
    const auto first = std::ssize(all);
    const std::vector<float>& scores = layer.scores[h];
    int64_t n_protected = 0;
    for (size_t i = 0; i < scores.size(); ++i) {
        const bool is_protected = layer.is_protected[h][i] != 0;
        n_protected += is_protected ? 1 : 0;
        all.push_back(
            {.score = std::isnan(scores[i]) ? -std::numeric_limits<float>::infinity() : scores[i],
             .rank = is_protected ? 0 : 2,
             .position = layer.view.heads[h].positions[i],
             .head = id});
    }
    const int64_t n_safe = std::min(safe - n_protected, std::ssize(all) - first - n_protected);
    if (n_safe <= 0) return;
    const auto begin = all.begin() + first;
    std::nth_element(begin, begin + (n_protected + n_safe - 1), all.end(), before);
    for (int64_t i = 0; i < n_protected + n_safe; ++i) {
        Candidate& c = begin[i];
        if (c.rank == 2) c.rank = 1;
    }
}

/// Of the entries from `first` on, one head's, the best `most`: no more of them can be taken.
void drop_beyond(int64_t most, int64_t first, std::vector<Candidate>& all) {
    if (std::ssize(all) - first <= most) return;
    const auto end = all.begin() + first + std::max<int64_t>(most, 0);
    std::nth_element(all.begin() + first, end, all.end(), before);
    all.erase(end, all.end());
}

size_t n_entries(std::span<const LayerCandidates> layers) {
    size_t n = 0;
    for (const LayerCandidates& layer : layers) {
        for (const auto& head : layer.scores) n += head.size();
    }
    return n;
}

}  // namespace

std::span<const AllocatorKind> allocator_kinds() { return kKinds; }

const AllocatorKind& find_allocator(std::string_view name) {
    std::vector<std::string_view> names;
    for (const AllocatorKind& kind : kKinds) {
        if (kind.name == name) return kind;
        names.push_back(kind.name);
    }
    throw Error(ErrorCode::kNotFound, unknown_name("allocator", name, names));
}

void check_trained_allocator(const EvictionWeights& weights) {
    if (weights.indexer() == nullptr || weights.indexer()->allocator.empty()) return;
    const std::string& wanted = weights.indexer()->allocator;
    std::string known;
    for (const AllocatorKind& kind : kKinds) {
        if (kind.name == wanted) return;
        known += cat(known.empty() ? "" : ", ", kind.name);
    }
    throw Error(ErrorCode::kCorrupt, cat("'", weights.path(), "' wants the allocator '", wanted,
                                         "'; known are ", known));
}

std::vector<std::vector<int64_t>> count_best(std::span<const LayerCandidates> layers, int64_t total,
                                             int64_t safe, int64_t most) {
    std::vector<Candidate> all;
    std::vector<std::vector<int64_t>> counts;
    int32_t id = 0;
    all.reserve(n_entries(layers));
    for (const LayerCandidates& layer : layers) {
        counts.emplace_back(layer.scores.size());
        for (size_t h = 0; h < layer.scores.size(); ++h) {
            const auto first = std::ssize(all);
            add_candidates(layer, h, id++, safe, all);
            drop_beyond(most, first, all);
        }
    }
    std::vector<int64_t> taken(static_cast<size_t>(id));
    const int64_t n = std::min(total, std::ssize(all));
    std::nth_element(all.begin(), all.begin() + n, all.end(), before);
    for (int64_t i = 0; i < n; ++i) ++taken[static_cast<size_t>(all[static_cast<size_t>(i)].head)];
    size_t at = 0;
    for (auto& layer : counts) {
        for (int64_t& count : layer) count = taken[at++];
    }
    return counts;
}

}  // namespace palimpsest
