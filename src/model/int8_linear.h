#pragma once

#include "core/graph.h"
#include "model/product_tiles.h"

namespace palimpsest {

/// Nodes of integer products (int8_kernel.h), which must know all the types, of x [in, n] f32:
/// [n_out, n] f32. A norm that x is the result of is taken on the way. With `many`, tiles
/// are put in order for all rows at once; without, the matrix is read once, as it is stored.
[[nodiscard]] Tensor int8_product(Graph& g, Matrices m, Tensor x, bool many);

/// down(f(gate(x)) * up(x)), `m` being gate and up; without sums.
[[nodiscard]] Tensor int8_gated(Graph& g, Matrices m, const Linear& down, Tensor x, bool many);

}  // namespace palimpsest
