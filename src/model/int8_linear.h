#pragma once

#include "core/graph.h"
#include "model/product_tiles.h"

namespace palimpsest {

/// Can all of them be multiplied by int8_kernel.h here?
[[nodiscard]] bool int8_multiplies(const Matrices& m);

/// Nodes of integer products (int8_kernel.h) of x [in, n] f32: [n_out, n] f32. With `many`, tiles
/// are put in order for all rows at once; without, the matrix is read once, as it is stored.
[[nodiscard]] Tensor int8_product(Graph& g, Matrices m, Tensor x, bool many);

/// down(f(gate(x)) * up(x)), `m` being gate and up; without sums.
[[nodiscard]] Tensor int8_gated(Graph& g, Matrices m, const Linear& down, Tensor x, bool many);

}  // namespace palimpsest
