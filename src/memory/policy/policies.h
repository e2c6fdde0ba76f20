#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "memory/policy/eviction_policy.h"
#include "memory/policy/part_inputs.h"

namespace palimpsest {

/// One policy that a user can name.
struct PolicyKind {
    std::string_view name;
    /// nullptr: the policy that never evicts.
    std::unique_ptr<EvictionPolicy> (*make)(const PartInputs& in);
    std::string_view allocator;  // used if neither the user nor the weights name one
    std::string_view summary;
    /// Of a policy that needs trained weights: are they in a file? nullptr: it needs none.
    bool (*has_weights)(const EvictionWeights& of) = nullptr;
    /// The allocator that such weights were trained for; empty: they do not say.
    std::string_view (*trained_allocator)(const EvictionWeights& of) = nullptr;
    bool takes_weights = false;  // of one that needs none: it uses them where they are

    /// The allocator used if the user names none. `learned` may be nullptr.
    [[nodiscard]] std::string_view usual_allocator(const EvictionWeights* learned) const;

    [[nodiscard]] bool is_learned() const { return has_weights != nullptr; }
    /// Does what it keeps depend on these weights? `learned` may be nullptr.
    [[nodiscard]] bool uses(const EvictionWeights* learned) const {
        return is_learned() || (takes_weights && learned != nullptr);
    }
};

/// All policies: what the command line, the tests and the benches offer.
[[nodiscard]] std::span<const PolicyKind> policy_kinds();

/// Throws kNotFound, suggesting the nearest name, for an unknown one.
const PolicyKind& find_policy(std::string_view name);

/// What keeps most of a text whose question is not known: a policy that `learned` is for, if they
/// are whole and this model's (it may be nullptr), else the best of those that need no weights.
[[nodiscard]] std::string_view best_unasked(const EvictionWeights* learned);

using MadePolicy = std::unique_ptr<EvictionPolicy>;
MadePolicy make_window(const PartInputs& in);
MadePolicy make_random(const PartInputs& in);
MadePolicy make_key_norm(const PartInputs& in);
MadePolicy make_key_diff(const PartInputs& in);
MadePolicy make_lag_kv(const PartInputs& in);
MadePolicy make_snap_kv(const PartInputs& in);
MadePolicy make_tova(const PartInputs& in);
MadePolicy make_h2o(const PartInputs& in);
MadePolicy make_expected_attention(const PartInputs& in);
MadePolicy make_chunk_kv(const PartInputs& in);
MadePolicy make_cur(const PartInputs& in);
MadePolicy make_kvzip(const PartInputs& in);
MadePolicy make_question(const PartInputs& in);
MadePolicy make_leverage(const PartInputs& in);
MadePolicy make_indexer(const PartInputs& in);
MadePolicy make_gate(const PartInputs& in);

/// Mean over `kernel` neighbours; what lies outside counts as zero, as in snap-kv's original.
void smooth(std::span<float> values, int64_t kernel);

class QueryWindow;
/// The window scores that snap-kv, pyramid-kv and chunk-kv share: mean attention of the last
/// queries to every entry, smoothed; the window itself one above the best.
Scores window_scores(const QueryWindow& queries, const LayerView& held, int64_t window,
                     int64_t kernel);

}  // namespace palimpsest
