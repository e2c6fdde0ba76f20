#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "memory/eviction_policy.h"
#include "memory/option_reader.h"

namespace palimpsest {

/// One policy that a user can name.
struct PolicyKind {
    std::string_view name;
    /// nullptr: the policy that never evicts.
    std::unique_ptr<EvictionPolicy> (*make)(const MemoryShape& shape, OptionReader& options);
    std::string_view allocator;  // used if the user names none
    std::string_view summary;
};

/// All policies: what the command line, the tests and the benches offer.
[[nodiscard]] std::span<const PolicyKind> policy_kinds();

/// Throws kNotFound, suggesting the nearest name, for an unknown one.
const PolicyKind& find_policy(std::string_view name);

using MadePolicy = std::unique_ptr<EvictionPolicy>;
MadePolicy make_window(const MemoryShape& shape, OptionReader& options);
MadePolicy make_random(const MemoryShape& shape, OptionReader& options);
MadePolicy make_key_norm(const MemoryShape& shape, OptionReader& options);
MadePolicy make_key_diff(const MemoryShape& shape, OptionReader& options);
MadePolicy make_lag_kv(const MemoryShape& shape, OptionReader& options);
MadePolicy make_snap_kv(const MemoryShape& shape, OptionReader& options);
MadePolicy make_tova(const MemoryShape& shape, OptionReader& options);
MadePolicy make_h2o(const MemoryShape& shape, OptionReader& options);
MadePolicy make_expected_attention(const MemoryShape& shape, OptionReader& options);
MadePolicy make_chunk_kv(const MemoryShape& shape, OptionReader& options);
MadePolicy make_cur(const MemoryShape& shape, OptionReader& options);
MadePolicy make_kvzip(const MemoryShape& shape, OptionReader& options);
MadePolicy make_leverage(const MemoryShape& shape, OptionReader& options);

/// The window scores that snap-kv, pyramid-kv and chunk-kv share: mean attention of the last
/// queries to every entry, pooled over neighbours; the window itself one above the best.
class QueryWindow;
Scores window_scores(const QueryWindow& queries, const LayerView& held, int64_t window,
                     int64_t kernel);

}  // namespace palimpsest
