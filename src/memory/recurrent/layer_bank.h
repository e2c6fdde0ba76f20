#pragma once

#include <iosfwd>
#include <memory>
#include <vector>

#include "core/graph.h"
#include "memory/context_memory.h"
#include "memory/recurrent/state_bank.h"

namespace palimpsest {

/// The banks of a layer's heads.
class LayerBank {
 public:
    /// Throws as make_bank() does.
    LayerBank(const RecurrentLayer& shape, const BankOptions& options);

    /// A node that takes a step's tokens in; as RecurrentMemory::recur().
    [[nodiscard]] Tensor recur(Graph& g, const RecurrenceInputs& in);

    void reset();
    void save(std::ostream& out) const;
    /// Throws kCorrupt; it is then as new.
    void load(std::istream& in);
    [[nodiscard]] size_t bytes() const;
    /// Sums of each head's states, [n_head][n_rows][n_columns].
    [[nodiscard]] const std::vector<float>& sums();

 private:
    class Op;
    RecurrentLayer shape_;
    std::vector<std::unique_ptr<HeadBank>> heads_;
    std::vector<float> sums_;
};

}  // namespace palimpsest
