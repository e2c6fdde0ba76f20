#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/graph.h"
#include "model/dense_product.h"
#include "model/product_tiles.h"

namespace palimpsest {

/// How products of many rows are computed.
enum class Reading {
    kAuto,       // what is fastest here and no further from f32 than ggml's own product
    kQuantised,  // ggml's product, for few rows as well
    kInt8,       // weights as they are stored, a tile at a time, with rows rounded to 8 bits
    kBf16,       // weights turned into bf16 a tile at a time, as many rows at once as there are
    kF32,        // the same in f32: slow, and the measure of the others
};

/// How one product is computed.
enum class ProductKind { kQuantised, kInt8, kBf16, kF32 };

/// What a model's products of many rows come to.
struct ReadingFacts {
    std::string name = "quantised";  // as the flag says it, but auto
    int64_t least_rows = 0;          // from so many on; 0: never
    std::string few = "quantised";   // for fewer
    std::string why = {};            // who multiplies many, or why nobody does
};

/// "bf16 from 24 rows on (oneDNN 2.6.3), int8 for fewer"
[[nodiscard]] std::string to_string(const ReadingFacts& facts);

/// auto, quantised, int8, bf16, f32
[[nodiscard]] std::vector<std::string> reading_names();
/// Throws kInvalidArgument, listing the names there are.
[[nodiscard]] Reading reading_named(std::string_view name);

/// A model's matrix products, in the form that is fastest for the type, the processor and the
/// number of rows: integer products of weights as they are stored (int8_kernel.h), where the
/// processor has them; for many rows, weights turned into plain numbers, a tile at a time, and
/// multiplied by oneDNN; ggml's own otherwise. No more memory is taken than tiles for each thread,
/// and the more rows there are the less the turning costs.
///
/// A row's result does not depend on the other rows, nor on the number of threads. It does depend
/// on whether rows are few or many, which are computed in other ways. Whoever builds a pass says
/// so: `many` is to be true where every lane alone has many_rows() rows or more, so that what a
/// lane gets never depends on the others.
///
/// Safe to share between threads.
class LinearProducts {
 public:
    /// Throws kUnsupported if this machine or build cannot do what is asked for, saying what it
    /// lacks.
    explicit LinearProducts(Reading reading = Reading::kAuto);

    /// What was asked for.
    [[nodiscard]] Reading reading_asked() const { return reading_; }
    /// What is used for weights of this type.
    [[nodiscard]] ProductKind kind_for(ggml_type type, bool many) const;
    [[nodiscard]] ReadingFacts facts_for(ggml_type type) const;
    /// Are rows rounded in products of many, to 16 bits or fewer, by us?
    [[nodiscard]] bool rounds(const Linear& l) const;
    /// So many rows are many.
    [[nodiscard]] int64_t many_rows() const { return many_rows_; }
    /// Must matrices of this type stay as the file has them?
    [[nodiscard]] bool reads_plain(ggml_type type) const {
        return kind_for(type, true) != ProductKind::kQuantised ||
               kind_for(type, false) != ProductKind::kQuantised;
    }

    /// x [in, n] f32 times one matrix: [out, n] f32.
    [[nodiscard]] Tensor of(Graph& g, const Linear& l, Tensor x, bool many) const;
    /// Times several, each [out, n] f32; they may be parts of one tensor, so rows may lie apart.
    [[nodiscard]] std::vector<Tensor> of(Graph& g, std::span<const Linear> matrices, Tensor x,
                                         bool many) const;
    /// The head's product. Where many logits are wanted, a text is measured or a model taught, and
    /// a third of what 8 bits lose is lost there: in bf16, unless something was asked for.
    [[nodiscard]] Tensor logits(Graph& g, const Linear& head, Tensor x, bool many) const;
    /// [in, n] to [out, n] f32.
    [[nodiscard]] Tensor gated(Graph& g, const GatedLinear& l, Tensor x, bool many) const;

 private:
    class RoundOp;
    class TileOp;
    struct Tiles;

    /// What all of them are computed in; ggml's product where they differ.
    [[nodiscard]] ProductKind kind_for(std::span<const Linear> matrices, bool many) const;
    [[nodiscard]] Tensor dense(Graph& g, Numbers numbers, Matrices m, Tensor x) const;
    /// x for tiled().
    [[nodiscard]] static Tensor rounded(Graph& g, Numbers numbers, Tensor x);
    /// A node of tiles; what can be told from the matrices and `rows` is filled in.
    [[nodiscard]] Tensor tiled(Graph& g, Tiles tiles, Tensor rows) const;
    [[nodiscard]] std::shared_ptr<const DenseProduct> product(Numbers numbers,
                                                              const ProductShape& shape) const;

    Reading reading_;
    bool has_int8_, has_bf16_;
    int64_t many_rows_;
    // Made when a graph is built; few, since rows come in blocks.
    mutable std::mutex mutex_;
    mutable std::map<std::pair<Numbers, ProductShape>, std::shared_ptr<const DenseProduct>> made_;
};

}  // namespace palimpsest
