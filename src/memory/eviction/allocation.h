#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "memory/eviction/selection.h"
#include "memory/policy/eviction_policy.h"
#include "memory/policy/part_inputs.h"

namespace palimpsest {

class EvictionWeights;

/// What one cut of the cache may leave.
struct CutTarget {
    double exact = 0;         // entries a head on average, before rounding down
    int64_t entries = 0;      // the same, rounded down
    double evicted = 0;       // share that goes, where a ratio was asked for
    bool is_cap = true;       // rounding may not add up to more than `entries` a head
    int64_t most = 0;         // no head may keep more
    int64_t n_protected = 0;  // entries of every head that no policy may give up
    int64_t run_length = 1;   // of the policy
};

/// One layer's candidates, scored.
struct LayerCandidates {
    LayerView view;
    Scores scores;
    std::vector<std::vector<uint8_t>> is_protected;  // [KV head][entry]
    /// Of the last query, mean over the heads that share an entry; empty unless the allocator goes
    /// by it.
    Scores attention = {};
};

/// Decides how many entries each head keeps; the head then keeps its best. What it must know of
/// queries that passed, it names among the observers while it is made. Immutable.
class BudgetAllocator {
 public:
    BudgetAllocator() = default;
    virtual ~BudgetAllocator() = default;
    BudgetAllocator(const BudgetAllocator&) = delete;
    BudgetAllocator& operator=(const BudgetAllocator&) = delete;

    /// Completes a layer's candidates with what it goes by beside their scores. `noted` are the
    /// observers it was made with, or a clone of them. Several layers at once by several threads.
    virtual void complete(LayerCandidates& /*layer*/, const Observers& /*noted*/) const {}

    /// Entries for every layer and KV head, [layers.size()][KV heads]: layers are those that evict,
    /// in order.
    [[nodiscard]] virtual std::vector<std::vector<int64_t>> allocate(
        std::span<const LayerCandidates> layers, const CutTarget& target) const = 0;

    /// May change a layer's scores once its counts are known. Several layers at once by several
    /// threads.
    virtual void rescore(LayerCandidates& /*layer*/, std::span<const int64_t> /*counts*/,
                         const CutTarget& /*target*/) const {}
};

struct AllocatorKind {
    std::string_view name;
    std::unique_ptr<BudgetAllocator> (*make)(const PartInputs& in);
    std::string_view summary;
    /// What it adds to the observers; empty: nothing. Allocators of one name add the same.
    std::string_view observes = {};
};

[[nodiscard]] std::span<const AllocatorKind> allocator_kinds();

/// Throws kNotFound, suggesting the nearest name, for an unknown one.
const AllocatorKind& find_allocator(std::string_view name);

/// Throws kCorrupt, naming the file, if it wants an allocator that is not there.
void check_trained_allocator(const EvictionWeights& weights);

std::unique_ptr<BudgetAllocator> make_uniform(const PartInputs& in);
std::unique_ptr<BudgetAllocator> make_pyramid(const PartInputs& in);
std::unique_ptr<BudgetAllocator> make_adaptive(const PartInputs& in);
std::unique_ptr<BudgetAllocator> make_global(const PartInputs& in);
std::unique_ptr<BudgetAllocator> make_mass(const PartInputs& in);
std::unique_ptr<BudgetAllocator> make_critical(const PartInputs& in);
std::unique_ptr<BudgetAllocator> make_critical_adaptive(const PartInputs& in);

/// The `total` best entries of all the heads in `layers`: how many fall to each head. Protected
/// ones come first, then the best `safe` of every head, then by score; no head gets more than
/// `most`. Ties: the earlier position, then the earlier head.
std::vector<std::vector<int64_t>> count_best(std::span<const LayerCandidates> layers, int64_t total,
                                             int64_t safe, int64_t most);

}  // namespace palimpsest
