// A prefix's dictionaries, laid out as a document holds them.

#include "memory/prefix/prefix_assembly.h"

#include <ggml-cpu.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "memory/kernels/attention_state.h"

namespace palimpsest {

PrefixAssembly::PrefixAssembly(PrefixHeader header, PrefixStorage storage)
    : header_(std::move(header)),
      storage_(storage),
      bytes_(std::make_shared<std::vector<std::vector<std::byte>>>()) {
    check(is_possible(header_.layout), "a layout that the heads allow");
}

GgufTensor PrefixAssembly::own(ggml_type type, const Shape& shape, std::vector<std::byte> bytes) {
    bytes_->push_back(std::move(bytes));
    return {.name = {}, .type = type, .shape = shape, .data = bytes_->back()};
}

namespace {

template <typename T>
std::vector<std::byte> raw(const std::vector<T>& values) {
    std::vector<std::byte> bytes(values.size() * sizeof(T));
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
}

/// Rows of f16, stored as `type` does.
void put_rows(std::span<const std::byte> from, int64_t d, ggml_type type, std::byte* to) {
    if (type == GGML_TYPE_F16) {
        std::ranges::copy(from, to);
        return;
    }
    const size_t row = ggml_row_size(GGML_TYPE_F16, d);
    const ggml_from_float_t store = ggml_get_type_traits_cpu(type)->from_float;
    std::vector<float> values(static_cast<size_t>(d));
    for (size_t at = 0; at < from.size(); at += row) {
        ggml_fp16_to_fp32_row(reinterpret_cast<const ggml_fp16_t*>(from.data() + at), values.data(),
                              d);
        store(values.data(), to, d);
        to += ggml_row_size(type, d);
    }
}

/// A layer's values while its codebooks are laid side by side, K entries each.
struct LayerBytes {
    std::vector<std::byte> keys, values, list_keys;
    std::vector<float> key_scale, value_scale, lse, radius, whitening;
    std::vector<int32_t> count, occupancy, list_start;
};

/// `most`: lists of the codebook that has the most.
void append_lists(const EntryLists& lists, int64_t width, int64_t most, LayerBytes& to) {
    const size_t at = to.list_keys.size();
    to.list_keys.resize(at + match_bytes(GGML_TYPE_F16, most, width));
    to_tiles(lists.directions, width, GGML_TYPE_F16,
             std::span(to.list_keys).subspan(at, match_bytes(GGML_TYPE_F16, lists.size(), width)));
    to.list_start.insert(to.list_start.end(), lists.start.begin(), lists.start.end());
    to.list_start.insert(to.list_start.end(), static_cast<size_t>(most - lists.size()),
                         lists.start.back());
}

void append_keys(const Codebook& book, int64_t k, PrefixStorage storage, LayerBytes& to) {
    const std::vector<float> rows = book.lookup_keys();
    const ggml_type type = storage == PrefixStorage::kI8 ? GGML_TYPE_I8 : GGML_TYPE_F16;
    const size_t at = to.keys.size();
    to.keys.resize(at + match_bytes(type, k, book.width()));
    const auto tiles = std::span(to.keys).subspan(at, match_bytes(type, book.size(), book.width()));
    if (type == GGML_TYPE_F16) return to_tiles(rows, book.width(), type, tiles);
    const size_t first = to.key_scale.size();
    to.key_scale.resize(first + static_cast<size_t>(k));
    to_tiles_i8(rows, book.width(), tiles,
                std::span(to.key_scale).subspan(first, static_cast<size_t>(book.size())));
}

void append_values(const Codebook& book, int64_t k, PrefixStorage storage, LayerBytes& to) {
    const auto n = static_cast<size_t>(k * book.width());
    std::vector<float> outputs = book.outputs;
    outputs.resize(n);
    const size_t at = to.values.size();
    if (storage == PrefixStorage::kF16) {
        to.values.resize(at + n * sizeof(ggml_fp16_t));
        ggml_fp32_to_fp16_row(outputs.data(), reinterpret_cast<ggml_fp16_t*>(to.values.data() + at),
                              static_cast<int64_t>(n));
        return;
    }
    to.values.resize(at + n);
    const auto d = static_cast<size_t>(book.d_head);
    for (size_t i = 0; i < n; i += d) {
        float most = 0;
        for (size_t c = 0; c < d; ++c) most = std::max(most, std::abs(outputs[i + c]));
        const float unit = most > 0 ? most / 127.0F : 1.0F;
        to.value_scale.push_back(unit);
        for (size_t c = 0; c < d; ++c) {
            to.values[at + i + c] =
                static_cast<std::byte>(static_cast<int8_t>(std::lround(outputs[i + c] / unit)));
        }
    }
}

template <typename T>
void append_padded(const std::vector<T>& from, size_t n, T padding, std::vector<T>& to) {
    to.insert(to.end(), from.begin(), from.end());
    to.insert(to.end(), n - from.size(), padding);
}

}  // namespace

void PrefixAssembly::add_layer(std::span<const Codebook> books, std::span<const EntryLists> lists) {
    const PrefixLayout& at = header_.layout;
    check(std::ssize(books) == at.n_codebooks(), "as many dictionaries as the layout has");
    check(lists.empty() || lists.size() == books.size(), "lists of every dictionary");
    int64_t k = 0;
    for (const Codebook& book : books) k = std::max(k, book.size());
    LayerBytes b;
    for (const Codebook& book : books) {
        check(book.width() == at.width() && book.size() > 0, "a dictionary of the layout's width");
        append_keys(book, k, storage_, b);
        append_values(book, k, storage_, b);
        const auto n = static_cast<size_t>(k);
        append_padded(book.lse, n * static_cast<size_t>(at.blocks()), kEmptyState, b.lse);
        append_padded(book.count, n, 0, b.occupancy);
        append_padded(book.radius, n, 0.0F, b.radius);
        b.count.push_back(static_cast<int32_t>(book.size()));
        for (const Whitening& w : book.whitening) {
            b.whitening.insert(b.whitening.end(), w.root.begin(), w.root.end());
        }
    }
    int64_t n_lists = 0;
    for (const EntryLists& of : lists) n_lists = std::max(n_lists, of.size());
    for (const EntryLists& of : lists) append_lists(of, at.width(), n_lists, b);
    const int64_t c = at.n_codebooks();
    const bool is_i8 = storage_ == PrefixStorage::kI8;
    const ggml_type stored = is_i8 ? GGML_TYPE_I8 : GGML_TYPE_F16;
    const int64_t n_tiles = (k + kMatchTile - 1) / kMatchTile;
    PrefixLayer l;
    l.keys = own(stored, {kMatchTile, at.width(), n_tiles, c}, std::move(b.keys));
    l.values = own(stored, {at.width(), k, c, 1}, std::move(b.values));
    if (is_i8) {
        l.key_scale = own(GGML_TYPE_F32, {k, c, 1, 1}, raw(b.key_scale));
        l.value_scale = own(GGML_TYPE_F32, {at.blocks(), k, c, 1}, raw(b.value_scale));
    }
    l.lse = own(GGML_TYPE_F32, {at.blocks(), k, c, 1}, raw(b.lse));
    l.count = own(GGML_TYPE_I32, {c, 1, 1, 1}, raw(b.count));
    l.occupancy = own(GGML_TYPE_I32, {k, c, 1, 1}, raw(b.occupancy));
    l.radius = own(GGML_TYPE_F32, {k, c, 1, 1}, raw(b.radius));
    if (!lists.empty()) {
        const int64_t tiles = (n_lists + kMatchTile - 1) / kMatchTile;
        l.list_keys =
            own(GGML_TYPE_F16, {kMatchTile, at.width(), tiles, c}, std::move(b.list_keys));
        l.list_start = own(GGML_TYPE_I32, {n_lists + 1, c, 1, 1}, raw(b.list_start));
    }
    if (!b.whitening.empty()) {
        l.whitening = own(GGML_TYPE_F32, {at.d_head, at.d_head, at.blocks(), c}, raw(b.whitening));
    }
    layers_.push_back(l);
}

void PrefixAssembly::set_floors(std::span<const float> floors) {
    const auto c = static_cast<size_t>(header_.layout.n_codebooks());
    check(floors.size() == c * layers_.size(), "a floor for every dictionary");
    for (size_t i = 0; i < layers_.size(); ++i) {
        const auto of = floors.subspan(i * c, c);
        layers_[i].floor = own(GGML_TYPE_F32, {static_cast<int64_t>(c), 1, 1, 1},
                               raw(std::vector<float>(of.begin(), of.end())));
    }
}

GgufTensor PrefixAssembly::own_rows(const HeadRows& of, const std::byte* EntryRows::*part,
                                    ggml_type type, const Shape& shape) {
    const int64_t d = header_.layout.d_head;
    const size_t row = ggml_row_size(type, d);
    std::vector<std::byte> bytes(static_cast<size_t>(shape[1] * shape[2]) * row);
    for (size_t h = 0; h < of.heads.size(); ++h) {
        const EntryRows& from = of.heads[h];
        check(from.type == GGML_TYPE_F16 && from.row_bytes == ggml_row_size(GGML_TYPE_F16, d),
              "entries come in f16");
        put_rows({from.*part, static_cast<size_t>(of.count[h]) * from.row_bytes}, d, type,
                 bytes.data() + static_cast<size_t>(of.first[h]) * row);
    }
    return own(type, shape, std::move(bytes));
}

void PrefixAssembly::set_exact(int64_t layer, std::span<const EntryRows> heads) {
    const int64_t n = std::ssize(header_.tokens);
    HeadRows rows = {.heads = heads};
    for (int64_t h = 0; h < std::ssize(heads); ++h) {
        rows.first.push_back(h * (n + kPaddingRows));
        rows.count.push_back(n);
    }
    const Shape shape = {header_.layout.d_head, n + kPaddingRows, std::ssize(heads), 1};
    PrefixLayer& l = layers_[static_cast<size_t>(layer)];
    l.exact_k = own_rows(rows, &EntryRows::k, GGML_TYPE_F16, shape);
    l.exact_v = own_rows(rows, &EntryRows::v, GGML_TYPE_F16, shape);
}

void PrefixAssembly::set_kept(int64_t layer, std::span<const EntryRows> heads,
                              std::span<const std::vector<int32_t>> positions) {
    check(positions.size() == heads.size(), "positions for every head");
    if (std::ranges::all_of(positions, [](const auto& of) { return of.empty(); })) return;
    HeadRows rows = {.heads = heads};
    std::vector<int32_t> all;
    std::vector<int32_t> starts = {0};
    for (const std::vector<int32_t>& of : positions) {
        rows.first.push_back(starts.back());
        rows.count.push_back(std::ssize(of));
        all.insert(all.end(), of.begin(), of.end());
        starts.push_back(static_cast<int32_t>(all.size()));
    }
    const ggml_type type = kept_type(header_.layout, storage_);
    const Shape shape = {header_.layout.d_head, std::ssize(all) + kPaddingRows, 1, 1};
    PrefixLayer& l = layers_[static_cast<size_t>(layer)];
    l.kept_k = own_rows(rows, &EntryRows::k, type, shape);
    l.kept_v = own_rows(rows, &EntryRows::v, type, shape);
    l.kept_at = own(GGML_TYPE_I32, {std::ssize(all), 1, 1, 1}, raw(all));
    l.kept_start = own(GGML_TYPE_I32, {std::ssize(starts), 1, 1, 1}, raw(starts));
}

PrefixDocument PrefixAssembly::document(const PrefixHeader& header) const {
    return {header, layers_, bytes_};
}

}  // namespace palimpsest
