#include "memory/attention/entry_store.h"

#include <ggml-cpu.h>

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace palimpsest {

namespace {

void check_shape(const MemoryShape& s, ggml_type type) {
    require_alike(s);
    check(s.n_layer > 0 && s.n_head_kv > 0 && s.n_head % s.n_head_kv == 0, "an impossible memory");
    const auto unsupported = [](const std::string& what) {
        throw Error(ErrorCode::kUnsupported, what);
    };
    if (type != GGML_TYPE_F32 && type != GGML_TYPE_F16 && type != GGML_TYPE_Q8_0) {
        unsupported(cat("entries of type ", ggml_type_name(type), "; there are f32, f16 and q8_0"));
    }
    if (s.d_head % ggml_blck_size(type) != 0) {
        unsupported(cat("entries of type ", ggml_type_name(type), " need a head size that is a ",
                        "multiple of ", ggml_blck_size(type), "; this model has ", s.d_head));
    }
    if (s.d_head % kHeadAlignment != 0 || s.d_head > kMaxHead) {
        unsupported(cat("head size ", s.d_head, "; it must be a multiple of ", kHeadAlignment,
                        " up to ", kMaxHead));
    }
}

}  // namespace

const MemoryShape& require_alike(const MemoryShape& shape) {
    const std::string unlike = unlike_layer(shape);
    if (unlike.empty()) return shape;
    throw Error(ErrorCode::kUnsupported,
                cat("this needs a model whose layers all attend alike; here ", unlike));
}

size_t bytes_of_all(const MemoryShape& shape, ggml_type type, int64_t n) {
    int64_t entries = 0;
    for (int64_t layer = 0; layer < shape.n_layer; ++layer) {
        const int64_t window = shape.window(layer);
        entries += window > 0 ? std::min(window, n) : n;
    }
    return static_cast<size_t>(entries * shape.n_head_kv) * 2 * ggml_row_size(type, shape.d_head);
}

EntryStore::EntryStore(const MemoryShape& shape, ggml_type type, int64_t n_slots)
    : shape_(shape), type_(type), n_slots_(n_slots) {
    check_shape(shape, type);
    check(n_slots > 0, "a cache without slots");
    row_bytes_ = ggml_row_size(type, shape.d_head);
    head_bytes_ = ReservedMemory::round_to_pages(static_cast<size_t>(n_slots) * row_bytes_);
    const size_t layer_bytes = head_bytes_ * static_cast<size_t>(shape.n_head_kv);
    const auto n_layer = static_cast<size_t>(shape.n_layer);
    // The kernels read whole vectors, so up to that much past the last slot's row.
    constexpr size_t kLongestVector = 64;
    k_memory_ = ReservedMemory(layer_bytes * n_layer + kLongestVector);
    v_memory_ = ReservedMemory(layer_bytes * n_layer + kLongestVector);
    from_float_ = ggml_get_type_traits_cpu(type)->from_float;

    borrowed_.emplace_back(std::span(k_memory_.data(), k_memory_.size()), n_layer);
    borrowed_.emplace_back(std::span(v_memory_.data(), v_memory_.size()), n_layer);
    // The whole of a layer's addresses as one long row; views with the real strides are cut from
    // it.
    const int64_t block = ggml_blck_size(type);
    const auto n_values = static_cast<int64_t>(layer_bytes / ggml_type_size(type)) * block;
    for (size_t i = 0; i < n_layer; ++i) {
        k_.push_back(borrowed_[0].add(type, {n_values, 1, 1, 1}, i * layer_bytes));
        v_.push_back(borrowed_[1].add(type, {n_values, 1, 1, 1}, i * layer_bytes));
    }
}

size_t EntryStore::offset(int64_t layer, int64_t head, int64_t slot) const {
    return static_cast<size_t>(layer * shape_.n_head_kv + head) * head_bytes_ +
           static_cast<size_t>(slot) * row_bytes_;
}

EntryRows EntryStore::rows(int64_t layer, int64_t head) const {
    const size_t at = offset(layer, head, 0);
    return {.type = type_,
            .k = k_memory_.data() + at,
            .v = v_memory_.data() + at,
            .row_bytes = row_bytes_,
            .d = shape_.d_head};
}

void EntryStore::put(std::byte* to, const float* row) const noexcept {
    if (type_ == GGML_TYPE_F32) {
        std::memcpy(to, row, row_bytes_);
    } else {
        from_float_(row, to, shape_.d_head);
    }
}

void EntryStore::write_key(int64_t layer, int64_t head, int64_t slot, const float* k) noexcept {
    put(k_memory_.data() + offset(layer, head, slot), k);
}

void EntryStore::write_value(int64_t layer, int64_t head, int64_t slot, const float* v) noexcept {
    put(v_memory_.data() + offset(layer, head, slot), v);
}

void EntryStore::write(int64_t layer, int64_t head, int64_t slot, const float* k,
                       const float* v) noexcept {
    write_key(layer, head, slot, k);
    write_value(layer, head, slot, v);
}

void EntryStore::gather(int64_t layer, int64_t head, std::span<const int32_t> kept) noexcept {
    std::byte* const k = k_memory_.data() + offset(layer, head, 0);
    std::byte* const v = v_memory_.data() + offset(layer, head, 0);
    // Run after run of neighbours: most entries that stay have neighbours that stay.
    for (size_t i = 0; i < kept.size();) {
        size_t end = i + 1;
        while (end < kept.size() && kept[end] == kept[end - 1] + 1) ++end;
        const size_t to = i * row_bytes_;
        const size_t from = static_cast<size_t>(kept[i]) * row_bytes_;
        if (to != from) {
            std::memmove(k + to, k + from, (end - i) * row_bytes_);
            std::memmove(v + to, v + from, (end - i) * row_bytes_);
        }
        i = end;
    }
}

void EntryStore::move_to_front(int64_t layer, int64_t head, int64_t from, int64_t n) noexcept {
    const size_t to = offset(layer, head, 0);
    const size_t at = offset(layer, head, from);
    const size_t size = static_cast<size_t>(n) * row_bytes_;
    std::memmove(k_memory_.data() + to, k_memory_.data() + at, size);
    std::memmove(v_memory_.data() + to, v_memory_.data() + at, size);
}

void EntryStore::release_from(int64_t layer, int64_t head, int64_t from) noexcept {
    const size_t begin = offset(layer, head, from);
    const size_t end = offset(layer, head, 0) + head_bytes_;
    k_memory_.release(begin, end - begin);
    v_memory_.release(begin, end - begin);
}

std::span<std::byte> EntryStore::key_bytes(int64_t layer, int64_t head, int64_t from, int64_t n) {
    return {k_memory_.data() + offset(layer, head, from), static_cast<size_t>(n) * row_bytes_};
}

std::span<std::byte> EntryStore::value_bytes(int64_t layer, int64_t head, int64_t from, int64_t n) {
    return {v_memory_.data() + offset(layer, head, from), static_cast<size_t>(n) * row_bytes_};
}

std::span<const std::byte> EntryStore::key_bytes(int64_t layer, int64_t head, int64_t from,
                                                 int64_t n) const {
    return {k_memory_.data() + offset(layer, head, from), static_cast<size_t>(n) * row_bytes_};
}

std::span<const std::byte> EntryStore::value_bytes(int64_t layer, int64_t head, int64_t from,
                                                   int64_t n) const {
    return {v_memory_.data() + offset(layer, head, from), static_cast<size_t>(n) * row_bytes_};
}

size_t EntryStore::bytes_of(int64_t n) const {
    return 2 * ReservedMemory::round_to_pages(static_cast<size_t>(n) * row_bytes_);
}

Tensor EntryStore::view(Graph& g, Tensor base, int64_t n) const {
    return ggml_view_4d(g.ctx(), base, shape_.d_head, n, 1, shape_.n_head_kv, row_bytes_,
                        static_cast<size_t>(n) * row_bytes_, head_bytes_, 0);
}

Tensor EntryStore::key_view(Graph& g, int64_t layer, int64_t n) const {
    return view(g, k_[static_cast<size_t>(layer)], n);
}

Tensor EntryStore::value_view(Graph& g, int64_t layer, int64_t n) const {
    return view(g, v_[static_cast<size_t>(layer)], n);
}

}  // namespace palimpsest
