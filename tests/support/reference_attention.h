#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/graph.h"
#include "memory/context_memory.h"

namespace palimpsest::testing {

/// A stored key and value, and the position they stand for.
struct ReferenceEntry {
    int64_t position = 0;
    std::vector<float> k, v;
};

struct ReferenceAnswer {
    std::vector<float> out;  // softmax-weighted mean of the visible values; 0 if none is visible
    double lse = 0;          // log of the sum of exp(scaled logits); -infinity if none is visible
};

/// Positions a query sees: [first, last].
struct PositionRange {
    int64_t first = 0, last = 0;
};

/// Softmax attention of one query in double precision, in plain loops.
ReferenceAnswer attend_plainly(std::span<const float> q, std::span<const ReferenceEntry> entries,
                               PositionRange visible, double scale);

/// What a model would hand to a memory, position after position, for every layer: random, and the
/// same for the same seed, however it is cut into steps.
class MemoryScript {
 public:
    MemoryScript(const MemoryShape& shape, int64_t n, uint32_t seed = 1);

    [[nodiscard]] const MemoryShape& shape() const { return shape_; }
    [[nodiscard]] int64_t length() const { return n_; }

    /// One step of the memory: plan, attend in every layer, settle. Returns its answers, position
    /// after position, within it layer after layer: d_head * n_head values each.
    std::vector<float> step(Backend& backend, ContextMemory& memory, int64_t first,
                            int64_t n) const;
    /// The same for a step that says more than its length; it reads from position `first` on.
    std::vector<float> step(Backend& backend, ContextMemory& memory, int64_t first,
                            const Step& step) const;
    /// All steps from `first` to the end, at most n_chunk positions each.
    std::vector<float> run(Backend& backend, ContextMemory& memory, int64_t n_chunk,
                           int64_t first = 0) const;

    /// Queries and keys of positions [first, first + n) become zeros.
    void silence(int64_t first, int64_t n);

    /// What a layer's KV head stores for a position, and what a head asks there.
    [[nodiscard]] ReferenceEntry entry(int64_t layer, int64_t head_kv, int64_t position) const;
    [[nodiscard]] std::span<const float> query(int64_t layer, int64_t head, int64_t position) const;
    /// A layer's input there: [n_embd].
    [[nodiscard]] std::span<const float> hidden(int64_t layer, int64_t position) const;

    /// What plain loops over every position so far answer, windows respected.
    [[nodiscard]] std::vector<float> expected(int64_t first, int64_t n) const;

 private:
    struct Layer {
        std::vector<float> q, k, v;  // [n][heads][d_head]
        std::vector<float> hidden;   // [n][n_embd]
    };
    /// Rows [first, first + n) of n_head parts of `width` values; n_head 0: of one such part.
    struct Rows {
        int64_t width = 0, n_head = 0, first = 0, n = 0;
    };
    Tensor input(Graph& g, const std::vector<float>& values, const Rows& rows) const;

    MemoryShape shape_;
    int64_t n_;
    std::vector<Layer> layers_;
};

}  // namespace palimpsest::testing
