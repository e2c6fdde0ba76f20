#include "prefix/prefix_sizes.h"

#include <algorithm>

#include "core/error.h"
#include "memory/prefix/prefix_file.h"

namespace palimpsest {

namespace {

constexpr int64_t kRecordsPerEntry = 8;

class Sizing {
 public:
    Sizing(const PrefixBuildOptions& o, const PrefixHeader& h, const PrefixSupply& from)
        : o_(o),
          h_(h),
          from_(from),
          budget_(o.budget_bytes > 0 ? o.budget_bytes : from.cache_bytes / 4) {}

    [[nodiscard]] PrefixSizes choose() const {
        PrefixSizes sizes;
        sizes.n_kept = from_.kept_share > 0 ? kept_of_share() : 0;
        sizes.k = o_.k > 0 ? o_.k : entries_in(left_beside(kept_bytes(sizes.n_kept)));
        require(sizes.k >= 1, "the ", left_beside(kept_bytes(sizes.n_kept)),
                " bytes that dictionaries may have are too few: one entry takes ",
                dictionary_bytes(1), " bytes over all layers");
        const int64_t allowed = std::max<int64_t>(1, from_.n_records / kRecordsPerEntry);
        const bool is_asked = o_.k > 0 || o_.budget_bytes > 0;
        if (sizes.k <= allowed || (is_asked && o_.is_forced)) return sizes;
        const bool fills_up = o_.k == 0 && !o_.kept_share && sizes.n_kept > 0;
        require(!is_asked || fills_up, sizes.k, " entries are too many for ", from_.n_records,
                " records: at ", kRecordsPerEntry, " records an entry, ", allowed,
                " can be told apart; give more traces, lower --entries-per-head or --budget, or ",
                "insist with --force");
        sizes.k = allowed;
        sizes.k_was_lowered = true;
        if (fills_up) sizes.n_kept = kept_in(left_beside(dictionary_bytes(sizes.k)));
        return sizes;
    }

 private:
    [[nodiscard]] size_t kept_bytes(int64_t n) const {
        return prefix_kept_bytes(h_.layout, from_.n_keeping, n, o_.storage);
    }
    [[nodiscard]] size_t left_beside(size_t bytes) const {
        return budget_ > bytes ? budget_ - bytes : 0;
    }

    /// Of k entries; lists and whitening included.
    [[nodiscard]] size_t dictionary_bytes(int64_t k) const {
        const size_t lists =
            wants_lists(o_, h_.layout, k) ? prefix_list_bytes(h_.layout, h_.n_layer, k) : 0;
        const size_t whitening = o_.whiten ? prefix_whitening_bytes(h_.layout, h_.n_layer) : 0;
        return prefix_dictionary_bytes(h_.layout, h_.n_layer, k, o_.storage) + lists + whitening;
    }

    /// The most entries of a dictionary that so many bytes hold, in whole tiles: keys of half a
    /// tile take the bytes of a whole one. 0: not even one.
    [[nodiscard]] int64_t entries_in(size_t bytes) const {
        const size_t tile = prefix_dictionary_bytes(h_.layout, h_.n_layer, kMatchTile, o_.storage);
        auto k = static_cast<int64_t>(bytes / tile + 1) * kMatchTile;
        while (k > 0 && dictionary_bytes(k) > bytes) k -= k > kMatchTile ? kMatchTile : 1;
        return k;
    }

    /// The most kept entries that so many bytes hold; 0 if fewer than one a head.
    [[nodiscard]] int64_t kept_in(size_t bytes) const {
        const int64_t n_heads = from_.n_keeping * h_.layout.n_head_kv;
        const size_t first = kept_bytes(1);
        const size_t another = kept_bytes(2) - first;
        const auto n = bytes < first ? 0 : static_cast<int64_t>((bytes - first) / another) + 1;
        return n < n_heads ? 0 : std::min(n, n_heads * (std::ssize(h_.tokens) - 1));
    }

    [[nodiscard]] int64_t kept_of_share() const {
        // With a number of entries and no budget, so much that their bytes are the rest.
        const double held =
            o_.k > 0 && o_.budget_bytes == 0
                ? static_cast<double>(dictionary_bytes(o_.k)) / (1 - from_.kept_share)
                : static_cast<double>(budget_);
        const auto bytes = static_cast<size_t>(held * from_.kept_share);
        const int64_t n = kept_in(bytes);
        require(n > 0 || !o_.kept_share, "a share of ", from_.kept_share, " of what is held (",
                bytes, " bytes) is too small for one kept entry a head; raise --budget, or keep ",
                "none with --kept 0");
        return n;
    }

    const PrefixBuildOptions& o_;
    const PrefixHeader& h_;
    PrefixSupply from_;
    size_t budget_;
};

}  // namespace

bool wants_lists(const PrefixBuildOptions& o, const PrefixLayout& at, int64_t k) {
    if (o.lookup == PrefixLookup::kFaster) return lists_pay(k, at.width());
    return o.lookup == PrefixLookup::kTwoLevel;
}

PrefixSizes choose_sizes(const PrefixBuildOptions& options, const PrefixHeader& header,
                         const PrefixSupply& from) {
    return Sizing(options, header, from).choose();
}

}  // namespace palimpsest
