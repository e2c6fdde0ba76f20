#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "memory/context_memory.h"
#include "memory/recurrent/layer_bank.h"

namespace palimpsest {

/// The states of recurrent layers: each head's matrix, and the last inputs of a layer's short
/// convolution. Their size does not depend on how much was read, and nothing can be taken out of
/// them again: what a rehearsal changes is put back from a copy, which is there as long as one
/// goes on.
class RecurrentMemory final : public ContextMemory {
 public:
    /// Takes the memory at once. `backend` must outlive it. `bank`: every head keeps several
    /// states, as these options say, instead of one; `read_out`: that bank as it was trained, of
    /// these layers. Throws kUnsupported for a layer that attends or a rule that is not there,
    /// kExhausted, and as make_bank() does.
    RecurrentMemory(const Backend& backend, const MemoryShape& shape,
                    const std::optional<BankOptions>& bank = {},
                    std::shared_ptr<const BankReadOut> read_out = {});

    uint64_t plan(const Step& step) override;
    Tensor attend(Graph& g, const AttentionInputs& in) override;
    Tensor recur(Graph& g, const RecurrenceInputs& in) override;
    Tensor with_before(Graph& g, int64_t layer, Tensor channels) override;
    void settle(const Step& step) override;
    void reset() override;
    [[nodiscard]] MemoryUsage usage() const override;
    [[nodiscard]] MemoryReport report() const override;
    void save(std::ostream& out) const override;
    void load(std::istream& in) override;

    [[nodiscard]] std::span<const float> states(int64_t layer) const override;
    /// The last inputs of its convolution [n_before][n_channels], oldest first; empty if it has
    /// none.
    [[nodiscard]] std::span<const float> before(int64_t layer) const;

 private:
    struct Layer {
        RecurrentLayer shape;
        Tensor states = nullptr;                    // [n_columns, n_rows, n_head]
        Tensor before = nullptr;                    // [n_channels, n_before]
        std::unique_ptr<LayerBank> bank = nullptr;  // instead of one state a head
    };
    [[nodiscard]] const Layer& layer(int64_t i) const;
    [[nodiscard]] std::vector<std::span<float>> values() const;
    void write(std::ostream& out) const;
    void read(std::istream& in);
    void put_back();

    [[nodiscard]] std::string bank_text() const;
    void note_changes(int64_t n);
    void note_change(const MemoryReport::States::Change& change);
    void load_changes(std::istream& in);

    std::optional<BankOptions> bank_;
    std::shared_ptr<const BankReadOut> read_out_;
    Openings openings_;  // of the running step; layers' banks add to it
    int64_t n_heads_ = 0;
    std::vector<MemoryReport::States::Change> changes_;  // the strongest, in order of position
    std::vector<Layer> layers_;
    std::unique_ptr<Storage> storage_;
    int64_t n_seen_ = 0;
    std::string kept_;  // as before a rehearsal, as write() has it; empty: none goes on
};

/// Why it cannot serve a model of such layers; empty: it can.
[[nodiscard]] std::string attending_layer(const MemoryShape& shape);

}  // namespace palimpsest
