#pragma once

#include <iosfwd>
#include <memory>
#include <vector>

#include "core/graph.h"
#include "memory/context_memory.h"
#include "memory/recurrent/bank_read_out.h"
#include "memory/recurrent/state_bank.h"

namespace palimpsest {

/// For every token of a step, how many heads opened a state for it.
using Openings = std::vector<uint32_t>;

/// The banks of a layer's heads.
class LayerBank {
 public:
    /// Adds to `openings`, which has a step's length when it runs and outlives this, as
    /// `read_out` does; nullptr: every state counts 1. Throws as make_bank() does.
    LayerBank(const RecurrentLayer& shape, const BankOptions& options, Openings& openings,
              const BankReadOut::Layer* read_out = nullptr);

    /// A node that takes a step's tokens in; as RecurrentMemory::recur().
    [[nodiscard]] Tensor recur(Graph& g, const RecurrenceInputs& in);

    void reset();
    void save(std::ostream& out) const;
    /// Throws kCorrupt; it is then as new.
    void load(std::istream& in);
    [[nodiscard]] size_t bytes() const;
    /// Sums of each head's states, [n_head][n_rows][n_columns].
    [[nodiscard]] const std::vector<float>& sums();

    /// What its heads decided and hold; adds it to a report.
    struct Tally {
        int64_t n_tokens = 0, n_opened = 0, n_merged = 0;
    };
    [[nodiscard]] Tally tally() const;
    void add_to(MemoryReport::States& report) const;

 private:
    class Op;
    [[nodiscard]] Tensor weights(Graph& g, Tensor hidden) const;
    RecurrentLayer shape_;
    Openings& openings_;
    const BankReadOut::Layer* read_out_;
    int64_t n_states_;
    std::vector<std::unique_ptr<HeadBank>> heads_;
    std::vector<Tally> tallies_;  // of each head
    std::vector<float> sums_;
};

}  // namespace palimpsest
