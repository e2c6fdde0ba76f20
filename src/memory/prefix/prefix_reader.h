#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "memory/attention/attention.h"
#include "memory/attention/joined_past.h"
#include "memory/context_memory.h"
#include "memory/prefix/prefix_document.h"

namespace palimpsest {

/// What sequences use of prefixes, each of which became a dictionary.
struct PrefixUse {
    PrefixDocuments documents = {};
    /// A query that is unlike any trace reads the exact prefix, where its document has that.
    bool has_gate = false;

    [[nodiscard]] bool is_empty() const { return documents.empty(); }
    /// Positions that a request starts after.
    [[nodiscard]] int64_t n_positions() const;
};

/// Graph nodes that a document adds to a layer bound how many there may be.
inline constexpr int64_t kMostPrefixes = 8;

/// Throws kInvalidArgument if a document is of another shape, or there are too many.
void check_prefixes(const PrefixUse& use, const MemoryShape& shape);

/// Looks prefixes' states up for the queries of one sequence, and joins them to its own attention:
/// one more entry in the softmax. Several documents count as one prefix (each state's weight is
/// divided by their number: every one has its own attention sink). All of them end where the
/// longest does: what a shorter one holds is asked by queries turned back by what it is shorter.
class PrefixReader final : public JoinedPast {
 public:
    PrefixReader(const PrefixUse& use, const MemoryShape& shape, int n_threads);
    ~PrefixReader() override;
    PrefixReader(const PrefixReader&) = delete;
    PrefixReader& operator=(const PrefixReader&) = delete;

    /// The step whose graph runs next.
    void begin(const Step& step);

    /// One more entry in the softmax. `scratch` must note every query's lse.
    Tensor join(Graph& g, const AttentionInputs& in, Tensor attended,
                AttentionScratch& scratch) override;

    [[nodiscard]] MemoryReport::Prefix report() const;
    void reset();
    [[nodiscard]] size_t bytes() const;

    /// Does a query at this position see anything of the prefix in this layer?
    [[nodiscard]] bool reaches(const PrefixDocument& document, int64_t layer, int64_t i) const;

 private:
    class MatchOp;
    class JoinOp;
    class TurnOp;
    class KeptEntries;

    /// One thread's counts and memory.
    struct Share {
        MemoryReport::Prefix seen = {};
        double weight = 0, similarity = 0;
        int64_t n_weighed = 0;  // queries that any document was looked up for
        std::vector<float> queries, state, kernel;
    };
    /// Attention over the entries that a document keeps.
    struct Kept {
        std::unique_ptr<KeptEntries> entries;
        std::unique_ptr<AttentionScratch> scratch;
        int64_t most = 0;  // of one head
    };

    /// Positions between a document's end and that of the longest.
    [[nodiscard]] int64_t shift(const PrefixDocument& document) const {
        return n_positions_ - document.n_positions();
    }

    PrefixUse use_;
    int64_t n_positions_;
    MemoryShape shape_;
    Step step_ = {};
    std::vector<Share> shares_;  // [thread]
    /// [position][head] of the running layer: what the documents so far are given together;
    /// below 0: none was looked up.
    std::vector<float> weights_;
    std::vector<Kept> kept_;  // [document]; empty ones keep none
};

}  // namespace palimpsest
