#pragma once

#include <cstdint>

namespace palimpsest {

/// A matrix read with any strides, so that its transpose costs nothing: element (i, k) is
/// data[i * row + k * step].
struct StridedMatrix {
    const float* data = nullptr;
    int64_t row = 0, step = 0;
};

struct ProductSize {
    int64_t rows = 0, inner = 0, columns = 0;
};

/// c += a b, with a [rows, inner], b [inner][columns] and c [rows][columns], row after row. One
/// thread; sums in one order, whatever the machine has of them.
void add_product(const StridedMatrix& a, const float* b, float* c, const ProductSize& size);

}  // namespace palimpsest
