#include "core/weights.h"

#include <ggml-cpu.h>

#include <cstdint>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/finite.h"
#include "core/tensor_values.h"

namespace palimpsest {

namespace {

/// What ggml's vector code wants of an address; a file may promise less.
constexpr size_t kTensorAlignment = 32;

std::span<std::byte> writable(std::span<const std::byte> bytes) {
    // ggml has no read-only buffers. Nothing writes to weights, and the mapping would fault.
    return {const_cast<std::byte*>(bytes.data()), bytes.size()};
}

bool is_aligned(std::span<const std::byte> bytes) {
    return reinterpret_cast<uintptr_t>(bytes.data()) % kTensorAlignment == 0;
}

void require_type(bool ok, const GgufTensor& t, std::string_view use) {
    if (ok) return;
    throw Error(ErrorCode::kUnsupported, cat("tensor '", t.name, "' has type ",
                                             ggml_type_name(t.type), ", which cannot be ", use));
}

}  // namespace

FileWeights::FileWeights(const GgufFile& file, const Backend& backend,
                         std::function<bool(ggml_type)> stays_plain)
    : file_(file),
      backend_(backend),
      stays_plain_(std::move(stays_plain)),
      // A tensor may be asked for twice: as a table, and packed as a matrix (tied embeddings).
      ctx_(ggml_init({.mem_size = (2 * file.tensors().size() + 1) * ggml_tensor_overhead(),
                      .mem_buffer = nullptr,
                      .no_alloc = true})) {
    check(file.mapping() != nullptr, "weights need a mapped file");
    for (const MappedFile* mapping : file.mappings()) {
        parts_.push_back({.mapping = *mapping,
                          .storage = {writable(mapping->bytes()), 2 * file.tensors().size()}});
    }
}

bool FileWeights::has(std::string_view name) const { return file_.find_tensor(name) != nullptr; }

std::vector<std::string_view> FileWeights::unused() const {
    std::vector<std::string_view> names;
    for (const GgufTensor& t : file_.tensors()) {
        if (!used_.contains(t.name)) names.push_back(t.name);
    }
    return names;
}

FileWeights::Part& FileWeights::part_of(const GgufTensor& source) {
    for (Part& part : parts_) {
        const auto bytes = part.mapping.bytes();
        if (source.data.data() >= bytes.data() && source.data.data() < bytes.data() + bytes.size())
            return part;
    }
    throw Error(ErrorCode::kInternal, cat("tensor '", source.name, "' is in no file"));
}

const GgufTensor& FileWeights::find(std::string_view name, const Shape& shape) {
    const GgufTensor* t = file_.find_tensor(name);
    if (t == nullptr) {
        throw Error(ErrorCode::kNotFound, cat("the model file has no tensor '", name, "'"));
    }
    if (t->shape != shape) {
        throw Error(ErrorCode::kCorrupt, cat("tensor '", name, "' has shape ", to_string(t->shape),
                                             "; the metadata says ", to_string(shape)));
    }
    // Products that round to whole numbers would hide what is none: it must be found here.
    if (used_.insert(t->name).second && !is_finite(*t, backend_.n_threads())) {
        throw Error(ErrorCode::kCorrupt,
                    cat("tensor '", name, "' holds a value that is not a number, or infinite; the ",
                        "file is damaged, or was converted wrongly: fetch or convert it anew"));
    }
    return *t;
}

Tensor FileWeights::values(std::string_view name, const Shape& shape) {
    const GgufTensor& t = find(name, shape);
    return t.type == GGML_TYPE_F32 ? in_place(t) : as_f32(t);
}

Tensor FileWeights::matrix(std::string_view name, int64_t n_in, int64_t n_out) {
    const GgufTensor& t = find(name, {n_in, n_out, 1, 1});
    require_type(ggml_get_type_traits_cpu(t.type)->vec_dot != nullptr, t, "multiplied with");
    ggml_backend_buffer_type_t packed =
        stays_plain_(t.type) ? nullptr : backend_.packed_type(t.type, t.shape);
    if (packed == nullptr) return in_place(t);
    Tensor copied = copy(t, packed);
    part_of(t).mapping.forget(t.data);
    return copied;
}

Tensor FileWeights::matrices(std::string_view name, int64_t n_in, int64_t n_out, int64_t n) {
    const GgufTensor& t = find(name, {n_in, n_out, n, 1});
    require_type(ggml_get_type_traits_cpu(t.type)->vec_dot != nullptr, t, "multiplied with");
    return in_place(t);
}

Tensor FileWeights::table(std::string_view name, int64_t n_columns, int64_t n_rows) {
    const GgufTensor& t = find(name, {n_columns, n_rows, 1, 1});
    require_type(t.type == GGML_TYPE_F32 || ggml_get_type_traits(t.type)->to_float != nullptr, t,
                 "looked up");
    return in_place(t);
}

Tensor FileWeights::in_place(const GgufTensor& source) {
    if (!is_aligned(source.data)) return copy(source, ggml_backend_cpu_buffer_type());
    const auto known = placed_.find(source.name);
    if (known != placed_.end()) return known->second;
    mapped_bytes_ += source.data.size();
    Part& part = part_of(source);
    return placed_[source.name] = part.storage.add(
               source.type, source.shape,
               static_cast<size_t>(source.data.data() - part.mapping.bytes().data()));
}

Tensor FileWeights::copy(const GgufTensor& source, ggml_backend_buffer_type_t type) {
    Tensor t = ggml_new_tensor(ctx_.get(), source.type, 4, source.shape.data());
    const size_t bytes = ggml_backend_buft_get_alloc_size(type, t);
    ggml_backend_buffer_ptr buffer(ggml_backend_buft_alloc_buffer(type, bytes));
    if (!buffer) {
        throw Error(ErrorCode::kExhausted,
                    cat("no memory for ", bytes, " bytes of tensor '", source.name, "'"));
    }
    ggml_backend_buffer_set_usage(buffer.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    check(ggml_backend_tensor_alloc(buffer.get(), t, ggml_backend_buffer_get_base(buffer.get())) ==
              GGML_STATUS_SUCCESS,
          "ggml refuses a weight");
    ggml_backend_tensor_set(t, source.data.data(), 0, source.data.size());
    copies_.push_back(std::move(buffer));
    copied_bytes_ += bytes;
    return t;
}

Tensor FileWeights::as_f32(const GgufTensor& source) {
    const std::vector<float> values = tensor_values(source);
    const GgufTensor plain = {.name = source.name,
                              .type = GGML_TYPE_F32,
                              .shape = source.shape,
                              .data = std::as_bytes(std::span(values))};
    return copy(plain, ggml_backend_cpu_buffer_type());
}

}  // namespace palimpsest
