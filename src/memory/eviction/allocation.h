#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "memory/eviction/selection.h"
#include "memory/option_reader.h"
#include "memory/policy/eviction_policy.h"

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
    /// Of the last query, mean over the heads that share an entry; empty unless the allocator needs
    /// it.
    Scores attention = {};
};

/// Decides how many entries each head keeps; the head then keeps its best. Immutable.
class BudgetAllocator {
 public:
    BudgetAllocator() = default;
    virtual ~BudgetAllocator() = default;
    BudgetAllocator(const BudgetAllocator&) = delete;
    BudgetAllocator& operator=(const BudgetAllocator&) = delete;

    /// Entries for every layer and KV head, [layers.size()][KV heads]: layers are those that evict,
    /// in order.
    [[nodiscard]] virtual std::vector<std::vector<int64_t>> allocate(
        std::span<const LayerCandidates> layers, const CutTarget& target) const = 0;

    /// May change a layer's scores once its counts are known. Several layers at once by several
    /// threads.
    virtual void rescore(LayerCandidates& /*layer*/, std::span<const int64_t> /*counts*/,
                         const CutTarget& /*target*/) const {}
};

/// Supplies a layer's attention output weights, [n_embd][n_head * d_head] f32.
using OutputWeights = std::function<std::vector<float>(int64_t layer)>;

struct AllocatorKind {
    std::string_view name;
    std::unique_ptr<BudgetAllocator> (*make)(OptionReader& options, const OutputWeights& weights);
    std::string_view summary;
    bool needs_last_query = false;  // goes by LayerCandidates::attention
};

[[nodiscard]] std::span<const AllocatorKind> allocator_kinds();

/// Throws kNotFound, suggesting the nearest name, for an unknown one.
const AllocatorKind& find_allocator(std::string_view name);

/// Throws kCorrupt, naming the file, if it wants an allocator that is not there.
void check_trained_allocator(const EvictionWeights& weights);

std::unique_ptr<BudgetAllocator> make_uniform(OptionReader& options, const OutputWeights& weights);
std::unique_ptr<BudgetAllocator> make_pyramid(OptionReader& options, const OutputWeights& weights);
std::unique_ptr<BudgetAllocator> make_adaptive(OptionReader& options, const OutputWeights& weights);
std::unique_ptr<BudgetAllocator> make_global(OptionReader& options, const OutputWeights& weights);
std::unique_ptr<BudgetAllocator> make_mass(OptionReader& options, const OutputWeights& weights);
std::unique_ptr<BudgetAllocator> make_critical(OptionReader& options, const OutputWeights& weights);
std::unique_ptr<BudgetAllocator> make_critical_adaptive(OptionReader& options,
                                                        const OutputWeights& weights);

/// The `total` best entries of all the heads in `layers`: how many fall to each head. Protected
/// ones come first, then the best `safe` of every head, then by score; no head gets more than
/// `most`. Ties: the earlier position, then the earlier head.
std::vector<std::vector<int64_t>> count_best(std::span<const LayerCandidates> layers, int64_t total,
                                             int64_t safe, int64_t most);

}  // namespace palimpsest
