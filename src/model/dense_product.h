#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace palimpsest {

/// In what a product of many rows is computed; sums are f32 in all of them.
enum class Numbers { kF32, kBf16 };

/// Shape of a product: x [rows][inner] times the transposed of w [columns][inner].
struct ProductShape {
    int64_t rows = 0, inner = 0, columns = 0;
    auto operator<=>(const ProductShape&) const = default;  // NOLINT(modernize-use-nullptr)
};

/// One product of two dense matrices on one thread, by oneDNN. Made once for a shape and run any
/// number of times, by several threads at once.
///
/// An element of the result does not depend on how many rows or columns are computed with it, where
/// repeats_bits().
class DenseProduct {
 public:
    /// Why this machine, or this build, cannot do it; empty: it can, and faster than f32.
    [[nodiscard]] static std::string obstacle(Numbers numbers);
    /// oneDNN's products for AVX-512 sum in one order whatever their shape; those for less do not,
    /// and those for AMX were not looked at.
    [[nodiscard]] static bool repeats_bits();
    /// What multiplies, and its version; empty: this build has nothing.
    [[nodiscard]] static std::string library();

    /// Throws kUnsupported.
    DenseProduct(Numbers numbers, const ProductShape& shape);
    ~DenseProduct();
    DenseProduct(const DenseProduct&) = delete;
    DenseProduct& operator=(const DenseProduct&) = delete;

    /// Memory that run() works in.
    [[nodiscard]] size_t scratch_bytes() const;

    /// out [rows][columns] f32. All but `out` in `numbers`, row after row; scratch starts at a
    /// multiple of 64 bytes. May not throw: a failure inside oneDNN ends the program.
    void run(const void* x, const void* w, float* out, std::byte* scratch) const noexcept;

 private:
    struct Primitive;
    std::unique_ptr<Primitive> primitive_;
};

}  // namespace palimpsest
