#pragma once

#include <ggml.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace palimpsest {

// Products of weights as they are stored with rows rounded to 8 bits: integers are multiplied and
// summed within a group of 16, then scaled in f32. Rows are rounded to 256 steps between the least
// and the greatest of a group of 16, with zero among the steps; ggml's steps reach as far to either
// side of 32 numbers, and models diverge from f32 four to ten times as much. Weights are not
// rounded at all. For x86-64 with AVX2, AVX-VNNI or AVX-512 VNNI, which give the same bits.

/// Why this processor or build cannot; empty: it can.
[[nodiscard]] std::string int8_obstacle();
/// Which instructions multiply; empty where there is an obstacle.
[[nodiscard]] std::string_view int8_instructions();
/// Are weights of this type multiplied here, on a processor that can?
[[nodiscard]] bool int8_knows(ggml_type type);

/// Bytes of a rounded row of `inner` numbers, which is a multiple of 32.
[[nodiscard]] int64_t int8_row_bytes(int64_t inner);
/// How many numbers of a row have a scale in common. With 16 they are twice as exact, and products
/// of many rows take an eighth longer.
enum class RowGroups { k16, k32 };

/// Rounds numbers [first, first + count) of a row; `first` is a multiple of 64 and so is `count`,
/// unless the row ends there. A number that is not finite makes results no numbers.
void round_to_int8(const float* x, int64_t first, int64_t count, int64_t inner, RowGroups groups,
                   std::byte* row);

/// to[i] = x[i] weight[i] / sqrt(mean of squares + epsilon); n is a multiple of 32.
void rms_norm_row(const float* x, const float* weight, int64_t n, float epsilon, float* to);

/// Rounded rows, one after another.
struct Int8Rows {
    const std::byte* data = nullptr;
    int64_t n = 0;
    int64_t inner = 0;
    RowGroups groups = RowGroups::k16;
};

/// Where results go: number i of row r at data[r * stride + i].
struct F32Rows {
    float* data = nullptr;
    int64_t stride = 0;
};

/// Rounded rows in the order in which few of them are multiplied.
struct Int8FewRows {
    const std::byte* data = nullptr;
    int64_t n = 0;
    int64_t inner = 0;
};

/// A multiple of 64.
[[nodiscard]] size_t int8_few_bytes(int64_t n, int64_t inner);
/// In `memory` of int8_few_bytes(), which outlives them and best starts at a multiple of 64.
[[nodiscard]] Int8FewRows int8_order_few(const Int8Rows& rows, std::byte* memory);

/// For few rows: features [first, first + count) of a stored matrix, which is read as it is. A
/// row's results do not depend on the other rows.
void int8_multiply_few(const ggml_tensor* w, int64_t first, int64_t count, const Int8FewRows& rows,
                       const F32Rows& out);

/// For many: a part of a matrix in the order in which it is multiplied. Its results differ from
/// those for few rows by the order of sums; a row's do not depend on the other rows here either.
class Int8Tile {
 public:
    /// Features are computed by so many at once; results are written for whole steps.
    static constexpr int64_t kStep = 32;

    /// Bytes for any type, a multiple of 64.
    [[nodiscard]] static size_t bytes(int64_t features, int64_t inner);
    /// Features [first, first + count) of a stored matrix, in `memory` of bytes(count, inner),
    /// which starts at a multiple of 64 and outlives the tile.
    Int8Tile(const ggml_tensor* w, int64_t first, int64_t count, std::byte* memory);

    /// `out` has room for `count`, made whole steps, in each row.
    void multiply(const Int8Rows& rows, const F32Rows& out) const;

 private:
    int64_t steps_;
    int64_t inner_;
    ggml_type type_;
    std::byte* memory_;
};

}  // namespace palimpsest
