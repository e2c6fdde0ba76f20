// A prefix that became a dictionary: what it holds, and how it is asked.
//
// Okoshi et al., 2026, arXiv:2605.18226, sections 3.4 and 3.5. Keys lie in tiles, channel by
// channel, in the file as in memory: a mapped file is asked as it is.

#include "memory/prefix_document.h"

#include <ggml-cpu.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "memory/attention_state.h"

namespace palimpsest {

namespace {

constexpr int64_t kPadding = 8;  // rows past the last that whole vectors may read

[[noreturn]] void corrupt(const std::string& what) {
    throw Error(ErrorCode::kCorrupt, cat("the prefix memory is damaged: ", what));
}

template <typename T>
const T* values_of(const GgufTensor& t) {
    return reinterpret_cast<const T*>(t.data.data());
}

float length(std::span<const float> x) {
    float sum = 0;
    for (const float v : x) sum += v * v;
    return std::sqrt(sum);
}

void check_part(const PrefixPart& part, ggml_type type, const Shape& shape) {
    const GgufTensor& t = *part.tensor;
    if (t.data.empty()) {
        if (part.is_needed) corrupt(cat("it has no ", part.name));
        return;
    }
    if (t.type != type || t.shape != shape) {
        corrupt(cat(part.name, " is ", ggml_type_name(t.type), " ", to_string(t.shape),
                    ", it should be ", ggml_type_name(type), " ", to_string(shape)));
    }
    // Files may ask for any alignment; numbers are read in place.
    if (reinterpret_cast<uintptr_t>(t.data.data()) % alignof(float) != 0) {
        corrupt(cat(part.name, " does not begin at a multiple of ", alignof(float), " bytes"));
    }
}

std::span<const int32_t> list_starts(const PrefixLayer& l, int64_t codebook) {
    const int64_t n = l.list_start.shape[0];
    return {values_of<int32_t>(l.list_start) + codebook * n, static_cast<size_t>(n)};
}

/// Lists must hold every entry once. Those past the last that is needed are empty.
void check_lists(const PrefixLayer& l, int64_t codebook, int32_t n_entries) {
    const std::span<const int32_t> start = list_starts(l, codebook);
    if (start.size() < 2 || start.front() != 0 || start.back() != n_entries ||
        !std::ranges::is_sorted(start)) {
        corrupt(cat("its lists do not cover the ", n_entries, " entries of a dictionary"));
    }
}

std::span<const int32_t> kept_starts(const PrefixLayer& l) {
    return {values_of<int32_t>(l.kept_start), static_cast<size_t>(l.kept_start.shape[0])};
}

/// Every head must keep some of the prefix's positions, each once, and leave some.
void check_kept(const PrefixLayer& l, const PrefixHeader& h) {
    const bool has = !l.kept_at.data.empty();
    for (const GgufTensor* t : {&l.kept_k, &l.kept_v, &l.kept_start}) {
        if (t->data.empty() == has) corrupt("a part of its kept entries is missing");
    }
    if (!has) return;
    const std::span<const int32_t> starts = kept_starts(l);
    const int64_t n = l.kept_at.shape[0];
    const bool covers =
        starts.front() == 0 && starts.back() == n &&
        std::ranges::adjacent_find(starts, std::ranges::greater_equal{}) == starts.end();
    if (!covers) corrupt(cat("its heads do not share the ", n, " kept entries"));
    if (h.n_chunks > 1) corrupt("its prefix is in pieces, and yet it keeps entries of the whole");
    for (size_t head = 0; head + 1 < starts.size(); ++head) {
        const std::span at(values_of<int32_t>(l.kept_at) + starts[head],
                           static_cast<size_t>(starts[head + 1] - starts[head]));
        const bool ascends =
            std::ranges::adjacent_find(at, std::ranges::greater_equal{}) == at.end();
        const bool leaves_some = std::ssize(at) < std::ssize(h.tokens);
        if (!ascends || !leaves_some || at.front() < 0 || at.back() >= std::ssize(h.tokens)) {
            corrupt("its kept entries are of no positions");
        }
    }
}

/// Every part's type and shape; every count and value that an index or a loop comes from.
void check_layer(PrefixLayer& l, const PrefixHeader& h) {
    const PrefixLayout& at = h.layout;
    const int64_t c = at.n_codebooks();
    if (l.lse.data.empty()) corrupt("it has no lse");
    const int64_t k = l.lse.shape[1];
    const int64_t n_tiles = (k + kMatchTile - 1) / kMatchTile;
    const bool is_i8 = l.keys.type == GGML_TYPE_I8;
    const ggml_type stored = is_i8 ? GGML_TYPE_I8 : GGML_TYPE_F16;
    const int64_t n_exact = std::ssize(h.tokens) + kPadding;
    for (const PrefixPart& part : parts_of(l, h)) {
        const GgufTensor* t = part.tensor;
        if (t == &l.keys) check_part(part, stored, {kMatchTile, at.width(), n_tiles, c});
        if (t == &l.key_scale) check_part(part, GGML_TYPE_F32, {k, c, 1, 1});
        if (t == &l.values) check_part(part, stored, {at.width(), k, c, 1});
        if (t == &l.value_scale) check_part(part, GGML_TYPE_F32, {at.blocks(), k, c, 1});
        if (t == &l.lse) check_part(part, GGML_TYPE_F32, {at.blocks(), k, c, 1});
        if (t == &l.count) check_part(part, GGML_TYPE_I32, {c, 1, 1, 1});
        if (t == &l.occupancy) check_part(part, GGML_TYPE_I32, {k, c, 1, 1});
        if (t == &l.radius) check_part(part, GGML_TYPE_F32, {k, c, 1, 1});
        if (t == &l.list_keys) {
            const int64_t n = l.list_start.shape[0] - 1;
            check_part(part, GGML_TYPE_F16,
                       {kMatchTile, at.width(), (n + kMatchTile - 1) / kMatchTile, c});
        }
        if (t == &l.list_start) {
            check_part(part, GGML_TYPE_I32, {l.list_start.shape[0], c, 1, 1});
        }
        if (t == &l.whitening) {
            check_part(part, GGML_TYPE_F32, {at.d_head, at.d_head, at.blocks(), c});
        }
        if (t == &l.floor) check_part(part, GGML_TYPE_F32, {c, 1, 1, 1});
        if (t == &l.exact_k || t == &l.exact_v) {
            check_part(part, GGML_TYPE_F16, {at.d_head, n_exact, at.n_head_kv, 1});
        }
        if (t == &l.kept_k || t == &l.kept_v) {
            const bool is_q8 = t->type == GGML_TYPE_Q8_0 && l.kept_k.type == l.kept_v.type;
            check_part(part, is_q8 ? GGML_TYPE_Q8_0 : GGML_TYPE_F16,
                       {at.d_head, l.kept_at.shape[0] + kPadding, 1, 1});
        }
        if (t == &l.kept_at) check_part(part, GGML_TYPE_I32, {l.kept_at.shape[0], 1, 1, 1});
        if (t == &l.kept_start) check_part(part, GGML_TYPE_I32, {at.n_head_kv + 1, 1, 1, 1});
    }
    if (is_i8 && (l.key_scale.data.empty() || l.value_scale.data.empty())) {
        corrupt("it has no scales");
    }
    // Lookups number entries in f32.
    if (k > int64_t{1} << 24) corrupt(cat("a dictionary has room for ", k, " entries"));
    if (l.exact_k.data.empty() != l.exact_v.data.empty()) corrupt("half of the prefix is missing");
    check_kept(l, h);
    if (l.list_keys.data.empty() != l.list_start.data.empty())
        corrupt("half of its lists is missing");
    for (int64_t i = 0; i < c; ++i) {
        const int32_t n = values_of<int32_t>(l.count)[i];
        if (n < 1 || n > k) corrupt(cat("a dictionary has ", n, " entries of ", k));
        if (!l.list_start.data.empty()) check_lists(l, i, n);
    }
}

bool is_layout(const PrefixLayout& l) {
    const auto in_range = [](int64_t n, int64_t most) { return n >= 1 && n <= most; };
    return in_range(l.n_head, 4096) && in_range(l.n_head_kv, l.n_head) &&
           l.n_head % l.n_head_kv == 0 && in_range(l.d_head, kMaxHead) &&
           l.d_head % kHeadAlignment == 0 && in_range(l.heads_per_key, l.group()) &&
           l.group() % l.heads_per_key == 0;
}

size_t kept_bytes_of(const PrefixLayer& l) {
    return l.kept_k.data.size() + l.kept_v.data.size() + l.kept_at.data.size() +
           l.kept_start.data.size();
}

size_t bytes_of(const PrefixLayer& l) {
    return l.keys.data.size() + l.key_scale.data.size() + l.values.data.size() +
           l.value_scale.data.size() + l.lse.data.size() + l.whitening.data.size() +
           l.list_keys.data.size() + l.list_start.data.size() + kept_bytes_of(l);
}

/// Of tensors [D, ...], from row `first` on.
EntryRows rows_from(const GgufTensor& k, const GgufTensor& v, int64_t first) {
    const size_t row = ggml_row_size(k.type, k.shape[0]);
    const size_t at = static_cast<size_t>(first) * row;
    return {.type = k.type,
            .k = k.data.data() + at,
            .v = v.data.data() + at,
            .row_bytes = row,
            .d = k.shape[0]};
}

/// Bytes of keys that one row's lookup reads, in the mean over codebooks.
size_t bytes_matched(const PrefixLayer& l, const PrefixLayout& at) {
    const size_t all =
        (l.keys.data.size() + l.key_scale.data.size()) / static_cast<size_t>(at.n_codebooks());
    const int64_t n_lists = l.list_start.shape[0] - 1;
    if (l.list_keys.data.empty() || n_lists <= kListsOpened) return all;
    const size_t lists = (l.list_keys.data.size() + l.list_start.data.size()) /
                         static_cast<size_t>(at.n_codebooks());
    return lists + all * kListsOpened / static_cast<size_t>(n_lists);
}

}  // namespace

std::string_view to_string(PrefixKeys keys) { return keys == PrefixKeys::kPre ? "pre" : "post"; }

std::vector<PrefixPart> parts_of(PrefixLayer& l, const PrefixHeader& h) {
    return {{"keys", &l.keys},
            {"key_scale", &l.key_scale, false},
            {"values", &l.values},
            {"value_scale", &l.value_scale, false},
            {"lse", &l.lse},
            {"count", &l.count},
            {"occupancy", &l.occupancy},
            {"radius", &l.radius},
            {"list_keys", &l.list_keys, false},
            {"list_start", &l.list_start, false},
            {"whitening", &l.whitening, h.is_whitened},
            {"floor", &l.floor, false},
            {"exact_k", &l.exact_k, false},
            {"exact_v", &l.exact_v, false},
            {"kept_k", &l.kept_k, false},
            {"kept_v", &l.kept_v, false},
            {"kept_at", &l.kept_at, false},
            {"kept_start", &l.kept_start, false}};
}

PrefixDocument::PrefixDocument(PrefixHeader header, std::vector<PrefixLayer> layers,
                               std::shared_ptr<const void> owner)
    : header_(std::move(header)), layers_(std::move(layers)), owner_(std::move(owner)) {
    if (!is_layout(header_.layout)) corrupt("its heads are impossible");
    if (header_.tokens.empty()) corrupt("it has no prefix");
    const bool has_end = header_.chunks_end > 0 && header_.chunks_end <= int64_t{1} << 30;
    if (header_.n_chunks < 1 || (header_.n_chunks > 1 && !has_end)) {
        corrupt("its pieces are impossible");
    }
    if (header_.n_chunks > 1 && !layers_.empty() && has_exact()) {
        corrupt("its prefix is in pieces, and yet in one");
    }
    if (layers_.empty() || std::ssize(layers_) != header_.n_layer) {
        corrupt(cat("it has ", layers_.size(), " of ", header_.n_layer, " layers"));
    }
    for (PrefixLayer& l : layers_) {
        check_layer(l, header_);
        if (l.list_keys.data.empty() == has_lists()) corrupt("not all layers have lists");
        if (l.kept_at.data.empty() == keeps_entries()) corrupt("not all layers keep entries");
    }
}

int64_t PrefixDocument::count(int64_t layer, int64_t codebook) const {
    return values_of<int32_t>(layers_[static_cast<size_t>(layer)].count)[codebook];
}

MatchKeys PrefixDocument::keys(int64_t layer, int64_t codebook) const {
    const PrefixLayer& l = layers_[static_cast<size_t>(layer)];
    const size_t bytes = l.keys.data.size() / static_cast<size_t>(l.keys.shape[3]);
    const float* scale = l.key_scale.data.empty()
                             ? nullptr
                             : values_of<float>(l.key_scale) + codebook * l.key_scale.shape[0];
    return {.type = l.keys.type,
            .tiles = l.keys.data.data() + static_cast<size_t>(codebook) * bytes,
            .scale = scale,
            .bias = nullptr,
            .n = count(layer, codebook),
            .d = header_.layout.width()};
}

KeyLists PrefixDocument::lists(int64_t layer, int64_t codebook) const {
    const PrefixLayer& l = layers_[static_cast<size_t>(layer)];
    if (l.list_keys.data.empty()) return {};
    const std::span<const int32_t> start = list_starts(l, codebook);
    const auto n = std::ranges::lower_bound(start, start.back()) - start.begin();
    const size_t bytes = l.list_keys.data.size() / static_cast<size_t>(l.list_keys.shape[3]);
    return {.directions = {.type = GGML_TYPE_F16,
                           .tiles = l.list_keys.data.data() + static_cast<size_t>(codebook) * bytes,
                           .n = n,
                           .d = header_.layout.width()},
            .start = start};
}

float PrefixDocument::similarity(int64_t layer, int64_t codebook, std::span<const float> key,
                                 float product) const {
    const PrefixLayer& l = layers_[static_cast<size_t>(layer)];
    float by = 0;
    if (l.whitening.data.empty()) {
        by = length(key);
    } else {
        const auto d = static_cast<size_t>(header_.layout.d_head);
        const auto blocks = static_cast<size_t>(header_.layout.blocks());
        std::vector<float> turned(key.size());
        for (size_t b = 0; b < blocks; ++b) {
            const size_t at = (static_cast<size_t>(codebook) * blocks + b) * d * d;
            multiply({values_of<float>(l.whitening) + at, d * d}, key.subspan(b * d, d),
                     std::span(turned).subspan(b * d, d));
        }
        by = length(turned);
    }
    return by > 0 ? std::clamp(product / by, -1.0F, 1.0F) : 0;
}

PrefixEntry PrefixDocument::find(int64_t layer, int64_t codebook,
                                 std::span<const float> key) const {
    const MatchKeys all = keys(layer, codebook);
    Match best;
    const KeyLists in = lists(layer, codebook);
    if (in.is_empty()) {
        best_matches(all, key.data(), all.d, 0, all.n_tiles(), std::span(&best, 1));
    } else {
        best_in_lists(all, in, key.data(), all.d, kListsOpened, std::span(&best, 1));
    }
    // A query that is not a number is like nothing.
    if (best.index < 0) return {.index = 0, .similarity = -1};
    return {.index = best.index, .similarity = similarity(layer, codebook, key, best.score)};
}

float PrefixDocument::state(int64_t layer, int64_t codebook, int64_t entry, int64_t block,
                            std::span<float> out) const {
    const PrefixLayer& l = layers_[static_cast<size_t>(layer)];
    const int64_t row = codebook * l.lse.shape[1] + entry;
    const int64_t part = row * header_.layout.blocks() + block;
    const int64_t first = part * header_.layout.d_head;
    if (l.values.type == GGML_TYPE_I8) {
        const auto* from = values_of<int8_t>(l.values) + first;
        const float scale = values_of<float>(l.value_scale)[part];
        for (size_t c = 0; c < out.size(); ++c) out[c] = scale * static_cast<float>(from[c]);
    } else {
        ggml_fp16_to_fp32_row(values_of<ggml_fp16_t>(l.values) + first, out.data(),
                              std::ssize(out));
    }
    return values_of<float>(l.lse)[part];
}

float PrefixDocument::floor(int64_t layer, int64_t codebook) const {
    const PrefixLayer& l = layers_[static_cast<size_t>(layer)];
    return l.floor.data.empty() ? -2.0F : values_of<float>(l.floor)[codebook];
}

EntryRows PrefixDocument::exact(int64_t layer, int64_t head_kv) const {
    const PrefixLayer& l = layers_[static_cast<size_t>(layer)];
    return rows_from(l.exact_k, l.exact_v, head_kv * l.exact_k.shape[1]);
}

EntryRows PrefixDocument::kept(int64_t layer, int64_t head_kv) const {
    const PrefixLayer& l = layers_[static_cast<size_t>(layer)];
    return rows_from(l.kept_k, l.kept_v, kept_starts(l)[static_cast<size_t>(head_kv)]);
}

int64_t PrefixDocument::n_kept(int64_t layer, int64_t head_kv) const {
    const std::span<const int32_t> starts = kept_starts(layers_[static_cast<size_t>(layer)]);
    return starts[static_cast<size_t>(head_kv) + 1] - starts[static_cast<size_t>(head_kv)];
}

std::vector<std::vector<int32_t>> PrefixDocument::kept_positions() const {
    std::vector<std::vector<int32_t>> all;
    for (const PrefixLayer& l : layers_) {
        const std::span<const int32_t> starts = kept_starts(l);
        const auto* at = values_of<int32_t>(l.kept_at);
        for (size_t h = 0; h + 1 < starts.size(); ++h) {
            all.emplace_back(at + starts[h], at + starts[h + 1]);
        }
    }
    return all;
}

size_t PrefixDocument::held_bytes() const {
    size_t n = 0;
    for (const PrefixLayer& l : layers_) n += bytes_of(l);
    return n;
}

size_t PrefixDocument::moved_bytes() const {
    size_t n = 0;
    const PrefixLayout& at = header_.layout;
    for (int64_t i = 0; i < header_.n_layer; ++i) {
        const PrefixLayer& l = layers_[static_cast<size_t>(i)];
        const auto lookups = static_cast<size_t>(at.n_codebooks() * at.rows());
        // Rows of a codebook pass all keys together, but each opens lists of its own.
        const auto passes =
            l.list_keys.data.empty() ? static_cast<size_t>(at.n_codebooks()) : lookups;
        n += passes * bytes_matched(l, at) + l.whitening.data.size();
        if (keeps_entries()) {
            const size_t row = ggml_row_size(l.kept_k.type, at.d_head);
            n += 2 * row * static_cast<size_t>(l.kept_at.shape[0]);
        }
        // Of the values, one entry for each lookup.
        const auto width = static_cast<size_t>(at.width());
        n += lookups * (width * ggml_type_size(l.values.type) +
                        static_cast<size_t>(at.blocks()) * sizeof(float) *
                            (l.value_scale.data.empty() ? 1 : 2));
    }
    return n;
}

size_t PrefixDocument::exact_bytes() const {
    size_t n = 0;
    for (const PrefixLayer& l : layers_) n += l.exact_k.data.size() + l.exact_v.data.size();
    return n;
}

size_t prefix_whitening_bytes(const PrefixLayout& l, int64_t n_layer) {
    const auto matrices = static_cast<size_t>(l.n_codebooks() * l.blocks() * n_layer);
    return matrices * static_cast<size_t>(l.d_head * l.d_head) * sizeof(float);
}

size_t prefix_list_bytes(const PrefixLayout& l, int64_t n_layer, int64_t k) {
    const int64_t n = lists_for(k);
    const size_t one =
        match_bytes(GGML_TYPE_F16, n, l.width()) + static_cast<size_t>(n + 1) * sizeof(int32_t);
    return one * static_cast<size_t>(l.n_codebooks() * n_layer);
}

ggml_type kept_type(const PrefixLayout& l, PrefixStorage storage) {
    const bool is_q8 =
        storage == PrefixStorage::kI8 && l.d_head % ggml_blck_size(GGML_TYPE_Q8_0) == 0;
    return is_q8 ? GGML_TYPE_Q8_0 : GGML_TYPE_F16;
}

size_t prefix_kept_bytes(const PrefixLayout& l, int64_t n_layer, int64_t n, PrefixStorage storage) {
    if (n == 0) return 0;
    const size_t row = ggml_row_size(kept_type(l, storage), l.d_head);
    const size_t layer =
        2 * kPadding * row + static_cast<size_t>(l.n_head_kv + 1) * sizeof(int32_t);
    return static_cast<size_t>(n) * (2 * row + sizeof(int32_t)) +
           static_cast<size_t>(n_layer) * layer;
}

size_t prefix_entry_bytes(const PrefixLayout& l, int64_t n_layer, PrefixStorage storage) {
    const auto width = static_cast<size_t>(l.width());
    const auto blocks = static_cast<size_t>(l.blocks());
    const size_t one = storage == PrefixStorage::kF16
                           ? 4 * width + blocks * sizeof(float)
                           : 2 * width + (1 + 2 * blocks) * sizeof(float);
    return one * static_cast<size_t>(l.n_codebooks() * n_layer);
}

// ---- assembly ------------------------------------------------------------------------------

PrefixAssembly::PrefixAssembly(PrefixHeader header, PrefixStorage storage)
    : header_(std::move(header)),
      storage_(storage),
      bytes_(std::make_shared<std::vector<std::vector<std::byte>>>()) {
    check(is_layout(header_.layout), "a layout that the heads allow");
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

/// Of every head its first rows, one head's after another's, and padding.
GgufTensor PrefixAssembly::own_rows(std::span<const EntryRows> heads,
                                    std::span<const int32_t> starts,
                                    const std::byte* EntryRows::*part) {
    const int64_t d = header_.layout.d_head;
    const ggml_type type = kept_type(header_.layout, storage_);
    const size_t row = ggml_row_size(type, d);
    const int64_t n = starts.back() + kPadding;
    std::vector<std::byte> bytes(static_cast<size_t>(n) * row);
    check(starts.size() == heads.size() + 1, "a number of kept entries for every head");
    for (size_t h = 0; h < heads.size(); ++h) {
        check(
            heads[h].type == GGML_TYPE_F16 && heads[h].row_bytes == ggml_row_size(GGML_TYPE_F16, d),
            "kept entries come in f16");
        const auto rows = static_cast<size_t>(starts[h + 1] - starts[h]);
        put_rows({heads[h].*part, rows * heads[h].row_bytes}, d, type,
                 bytes.data() + static_cast<size_t>(starts[h]) * row);
    }
    return own(type, {d, n, 1, 1}, std::move(bytes));
}

/// All rows of every head, each head's padded.
GgufTensor PrefixAssembly::own_exact(std::span<const EntryRows> heads,
                                     const std::byte* EntryRows::*part) {
    const int64_t d = header_.layout.d_head;
    const size_t row = ggml_row_size(GGML_TYPE_F16, d);
    const int64_t n = std::ssize(header_.tokens);
    const size_t padded = static_cast<size_t>(n + kPadding) * row;
    std::vector<std::byte> bytes(padded * heads.size());
    for (size_t h = 0; h < heads.size(); ++h) {
        check(heads[h].type == GGML_TYPE_F16 && heads[h].row_bytes == row, "exact entries in f16");
        std::copy_n(heads[h].*part, static_cast<size_t>(n) * row, bytes.data() + h * padded);
    }
    return own(GGML_TYPE_F16, {d, n + kPadding, std::ssize(heads), 1}, std::move(bytes));
}

void PrefixAssembly::set_exact(int64_t layer, std::span<const EntryRows> heads) {
    PrefixLayer& l = layers_[static_cast<size_t>(layer)];
    l.exact_k = own_exact(heads, &EntryRows::k);
    l.exact_v = own_exact(heads, &EntryRows::v);
}

void PrefixAssembly::set_kept(int64_t layer, std::span<const EntryRows> heads,
                              std::span<const std::vector<int32_t>> positions) {
    std::vector<int32_t> all;
    std::vector<int32_t> starts = {0};
    for (const std::vector<int32_t>& of : positions) {
        all.insert(all.end(), of.begin(), of.end());
        starts.push_back(static_cast<int32_t>(all.size()));
    }
    PrefixLayer& l = layers_[static_cast<size_t>(layer)];
    l.kept_k = own_rows(heads, starts, &EntryRows::k);
    l.kept_v = own_rows(heads, starts, &EntryRows::v);
    l.kept_at = own(GGML_TYPE_I32, {std::ssize(all), 1, 1, 1}, raw(all));
    l.kept_start = own(GGML_TYPE_I32, {std::ssize(starts), 1, 1, 1}, raw(starts));
}

PrefixDocument PrefixAssembly::document(const PrefixHeader& header) const {
    return {header, layers_, bytes_};
}

}  // namespace palimpsest
