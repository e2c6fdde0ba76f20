#include "memory/policy/policies.h"

#include <array>

#include "core/error.h"
#include "memory/policy/eviction_weights.h"

namespace palimpsest {

namespace {

constexpr std::array<PolicyKind, 18> kKinds = {{
    {"full", nullptr, "uniform", "forgets nothing"},
    {"window", make_window, "uniform", "the first and the last entries (arXiv:2309.17453)"},
    {"random", make_random, "uniform", "entries by lot, seeded: what chance keeps"},
    {"key-norm", make_key_norm, "uniform", "the shortest keys (arXiv:2406.11430)"},
    {"key-diff", make_key_diff, "uniform", "keys unlike the mean key (arXiv:2504.15364)"},
    {"lag-kv", make_lag_kv, "uniform", "entries unlike the ones after them (arXiv:2504.04704)"},
    {"snap-kv", make_snap_kv, "uniform", "what the last queries attend to (arXiv:2404.14469)"},
    {"pyramid-kv", make_snap_kv, "pyramid", "snap-kv, more for lower layers (arXiv:2406.02069)"},
    {"tova", make_tova, "uniform", "what the last query attends to (arXiv:2401.06104)"},
    {"h2o", make_h2o, "uniform", "what all queries so far attended to (arXiv:2306.14048)"},
    {"expected-attention", make_expected_attention, "uniform",
     "what queries to come would attend to (arXiv:2510.00636)"},
    {"chunk-kv", make_chunk_kv, "uniform", "snap-kv by whole runs of entries (arXiv:2502.00299)"},
    {"cur", make_cur, "uniform", "keys and values of large local leverage (arXiv:2509.15038)"},
    {"leverage", make_leverage, "uniform", "keys of large statistical leverage (arXiv:2507.08143)"},
    {"kvzip", make_kvzip, "global",
     "what repeating the input needs; reads everything twice (arXiv:2505.23416)"},
    {"question", make_question, "uniform",
     "what a known question attends to, beside what another policy keeps (arXiv:2408.00167)",
     nullptr,
     [](const EvictionWeights& of) { return find_policy(best_unasked(&of)).usual_allocator(&of); },
     true},
    {"indexer", make_indexer, "uniform",
     "what a trained indexer says some query needs (arXiv:2605.25475)",
     [](const EvictionWeights& of) { return of.indexer() != nullptr; },
     [](const EvictionWeights& of) -> std::string_view {
         return of.indexer() != nullptr ? of.indexer()->allocator : std::string_view();
     }},
    {"gate", make_gate, "global", "what a trained gate rated highest when it came in",
     [](const EvictionWeights& of) { return of.gate() != nullptr; }},
}};

}  // namespace

std::string_view PolicyKind::usual_allocator(const EvictionWeights* learned) const {
    if (learned == nullptr || trained_allocator == nullptr) return allocator;
    const std::string_view trained = trained_allocator(*learned);
    return trained.empty() ? allocator : trained;
}

std::string_view best_unasked(const EvictionWeights* learned) {
    // Weights that may be another model's, or that are half trained, are used by who names a
    // policy.
    if (learned != nullptr && learned->warning().empty()) {
        if (learned->gate() != nullptr) return "gate";
        if (learned->indexer() != nullptr) return "indexer";
    }
    // On RULER at 4,096 tokens, streaming (docs/results/learned-eviction.md).
    return "leverage";
}

std::span<const PolicyKind> policy_kinds() { return kKinds; }

const PolicyKind& find_policy(std::string_view name) {
    std::vector<std::string_view> names;
    for (const PolicyKind& kind : kKinds) {
        if (kind.name == name) return kind;
        names.push_back(kind.name);
    }
    throw Error(ErrorCode::kNotFound, unknown_name("policy", name, names));
}

}  // namespace palimpsest
