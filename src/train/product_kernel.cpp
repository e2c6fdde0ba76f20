// Products of matrices in f32: tiles of the result stay in registers, and the rows of b that a
// tile needs stay in the nearest cache.

#include "train/product_kernel.h"

#include <algorithm>

#include "memory/kernels/simd_targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "train/product_kernel.cpp"
#include <hwy/foreach_target.h>
// Must follow foreach_target.
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace palimpsest::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr hn::ScalableTag<float> kProductF32;
using ProductVector = hn::Vec<decltype(kProductF32)>;

constexpr int64_t kProductRows = 6;     // of a tile; with two vectors each, twelve sums
constexpr int64_t kProductInner = 256;  // rows of b at once
constexpr int64_t kMostPanel = 2 * static_cast<int64_t>(HWY_MAX_BYTES / sizeof(float));

/// A tile of kRows rows and two vectors of columns: c += a panel, the panel's rows being two
/// vectors long.
template <int64_t kRows>
void add_tile(const StridedMatrix& a, const float* panel, float* c, int64_t inner,
              int64_t c_stride) {
    const auto lanes = static_cast<int64_t>(hn::Lanes(kProductF32));
    ProductVector left[static_cast<size_t>(kRows)];
    ProductVector right[static_cast<size_t>(kRows)];
    for (int64_t i = 0; i < kRows; ++i) {
        left[i] = hn::LoadU(kProductF32, c + i * c_stride);
        right[i] = hn::LoadU(kProductF32, c + i * c_stride + lanes);
    }
    for (int64_t k = 0; k < inner; ++k) {
        const ProductVector b0 = hn::Load(kProductF32, panel + 2 * k * lanes);
        const ProductVector b1 = hn::Load(kProductF32, panel + (2 * k + 1) * lanes);
        for (int64_t i = 0; i < kRows; ++i) {
            const ProductVector x = hn::Set(kProductF32, a.data[i * a.row + k * a.step]);
            left[i] = hn::MulAdd(x, b0, left[i]);
            right[i] = hn::MulAdd(x, b1, right[i]);
        }
    }
    for (int64_t i = 0; i < kRows; ++i) {
        hn::StoreU(left[i], kProductF32, c + i * c_stride);
        hn::StoreU(right[i], kProductF32, c + i * c_stride + lanes);
    }
}

void add_rows(const StridedMatrix& a, const float* panel, float* c, const ProductSize& tile,
              int64_t c_stride) {
    switch (tile.rows) {
        case 1:
            return add_tile<1>(a, panel, c, tile.inner, c_stride);
        case 2:
            return add_tile<2>(a, panel, c, tile.inner, c_stride);
        case 3:
            return add_tile<3>(a, panel, c, tile.inner, c_stride);
        case 4:
            return add_tile<4>(a, panel, c, tile.inner, c_stride);
        case 5:
            return add_tile<5>(a, panel, c, tile.inner, c_stride);
        default:
            return add_tile<kProductRows>(a, panel, c, tile.inner, c_stride);
    }
}

/// The same where the last columns do not fill two vectors: on a copy that they do.
void add_edge(const StridedMatrix& a, const float* panel, float* c, const ProductSize& tile,
              int64_t c_stride) {
    alignas(64) float copy[kProductRows * kMostPanel] = {};
    for (int64_t i = 0; i < tile.rows; ++i) {
        std::copy_n(c + i * c_stride, tile.columns, copy + i * kMostPanel);
    }
    add_rows(a, panel, copy, tile, kMostPanel);
    for (int64_t i = 0; i < tile.rows; ++i) {
        std::copy_n(copy + i * kMostPanel, tile.columns, c + i * c_stride);
    }
}

void add_product_impl(const StridedMatrix& a, const float* b, float* c, const ProductSize& size) {
    alignas(64) float panel[kProductInner * kMostPanel];
    const auto width = 2 * static_cast<int64_t>(hn::Lanes(kProductF32));
    for (int64_t k = 0; k < size.inner; k += kProductInner) {
        for (int64_t j = 0; j < size.columns; j += width) {
            ProductSize tile = {.rows = 0,
                                .inner = std::min(kProductInner, size.inner - k),
                                .columns = std::min(width, size.columns - j)};
            for (int64_t r = 0; r < tile.inner; ++r) {
                float* row = panel + r * width;
                std::copy_n(b + (k + r) * size.columns + j, tile.columns, row);
                std::fill(row + tile.columns, row + width, 0.0F);
            }
            for (int64_t i = 0; i < size.rows; i += kProductRows) {
                tile.rows = std::min(kProductRows, size.rows - i);
                const auto add = tile.columns == width ? add_rows : add_edge;
                add({a.data + i * a.row + k * a.step, a.row, a.step}, panel,
                    c + i * size.columns + j, tile, size.columns);
            }
        }
    }
}

}  // namespace palimpsest::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace palimpsest {

HWY_EXPORT(add_product_impl);

void add_product(const StridedMatrix& a, const float* b, float* c, const ProductSize& size) {
    HWY_DYNAMIC_DISPATCH(add_product_impl)(a, b, c, size);
}

}  // namespace palimpsest
#endif
