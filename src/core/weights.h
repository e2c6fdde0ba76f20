#pragma once

#include <functional>
#include <memory>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "core/graph.h"

namespace palimpsest {

/// Named weights, whatever file they came from. Tensors live as long as this object.
///
/// All throw kNotFound if the name is absent, kCorrupt if the shape differs from the one asked
/// for or a value is NaN or infinite, kUnsupported if ggml cannot compute with the stored type.
class Weights {
 public:
    Weights() = default;
    virtual ~Weights() = default;
    Weights(const Weights&) = delete;
    Weights& operator=(const Weights&) = delete;

    [[nodiscard]] virtual bool has(std::string_view name) const = 0;
    /// Something added or multiplied element by element: [n], always f32.
    Tensor vector(std::string_view name, int64_t n) { return values(name, {n, 1, 1, 1}); }
    /// The same of any shape.
    virtual Tensor values(std::string_view name, const Shape& shape) = 0;
    /// Something multiplied with: [n_in, n_out], possibly in a layout only ggml can read.
    virtual Tensor matrix(std::string_view name, int64_t n_in, int64_t n_out) = 0;
    /// Several that are multiplied with by turns: [n_in, n_out, n], in the file's own layout.
    virtual Tensor matrices(std::string_view name, int64_t n_in, int64_t n_out, int64_t n) = 0;
    /// Something whose rows are looked up: [n_columns, n_rows].
    virtual Tensor table(std::string_view name, int64_t n_columns, int64_t n_rows) = 0;
};

/// The weights of a GGUF file: used where the file is mapped, except matrices that ggml multiplies
/// faster in a layout of its own, which are copied into that layout.
class FileWeights final : public Weights {
 public:
    /// `file` must have been opened by name, and outlive this object. Matrices of a type for which
    /// `stays_plain` says so are not copied into another layout.
    FileWeights(const GgufFile& file, const Backend& backend,
                std::function<bool(ggml_type)> stays_plain);

    [[nodiscard]] bool has(std::string_view name) const override;
    Tensor values(std::string_view name, const Shape& shape) override;
    Tensor matrix(std::string_view name, int64_t n_in, int64_t n_out) override;
    Tensor matrices(std::string_view name, int64_t n_in, int64_t n_out, int64_t n) override;
    Tensor table(std::string_view name, int64_t n_columns, int64_t n_rows) override;

    /// Tensors of the file that nobody asked for, in its order.
    [[nodiscard]] std::vector<std::string_view> unused() const;

    /// Bytes used in place, and bytes of copies in another layout.
    [[nodiscard]] size_t mapped_bytes() const { return mapped_bytes_; }
    [[nodiscard]] size_t copied_bytes() const { return copied_bytes_; }

 private:
    /// One mapping of the file.
    struct Part {
        const MappedFile& mapping;
        BorrowedStorage storage;
    };

    const GgufTensor& find(std::string_view name, const Shape& shape);
    Part& part_of(const GgufTensor& source);
    Tensor in_place(const GgufTensor& source);
    Tensor copy(const GgufTensor& source, ggml_backend_buffer_type_t type);
    Tensor as_f32(const GgufTensor& source);

    const GgufFile& file_;
    const Backend& backend_;
    std::function<bool(ggml_type)> stays_plain_;
    std::vector<Part> parts_;
    std::unordered_set<std::string_view> used_;
    ggml_context_ptr ctx_;
    std::unordered_map<std::string_view, Tensor> placed_;  // used in place, by name
    std::vector<ggml_backend_buffer_ptr> copies_;
    size_t mapped_bytes_ = 0;
    size_t copied_bytes_ = 0;
};

}  // namespace palimpsest
