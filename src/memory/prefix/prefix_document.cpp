// A prefix that became a dictionary: what it holds, and how it is asked.
//
// Okoshi et al., 2026, arXiv:2605.18226, sections 3.4 and 3.5. Keys lie in tiles, channel by
// channel, in the file as in memory: a mapped file is asked as it is.

#include "memory/prefix/prefix_document.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"

namespace palimpsest {

namespace {

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
    const int64_t n_exact = std::ssize(h.tokens) + kPaddingRows;
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
                       {at.d_head, l.kept_at.shape[0] + kPaddingRows, 1, 1});
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

bool is_possible(const PrefixLayout& l) {
    const auto in_range = [](int64_t n, int64_t most) { return n >= 1 && n <= most; };
    return in_range(l.n_head, 4096) && in_range(l.n_head_kv, l.n_head) &&
           l.n_head % l.n_head_kv == 0 && in_range(l.d_head, kMaxHead) &&
           l.d_head % kHeadAlignment == 0 && in_range(l.heads_per_key, l.group()) &&
           l.group() % l.heads_per_key == 0;
}

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
    if (!is_possible(header_.layout)) corrupt("its heads are impossible");
    if (header_.tokens.empty()) corrupt("it has no prefix");
    if (!header_.layer_errors.empty() && std::ssize(header_.layer_errors) != 4 * header_.n_layer) {
        corrupt(
            cat("it has ", header_.layer_errors.size(), " errors of ", header_.n_layer, " layers"));
    }
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
        if (l.exact_k.data.empty() == has_exact()) corrupt("not all layers have the prefix itself");
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

bool PrefixDocument::keeps_entries() const {
    return std::ranges::any_of(layers_, [](const auto& l) { return !l.kept_at.data.empty(); });
}

bool PrefixDocument::keeps_in_all_layers() const {
    return std::ranges::none_of(layers_, [](const auto& l) { return l.kept_at.data.empty(); });
}

int64_t PrefixDocument::n_kept(int64_t layer, int64_t head_kv) const {
    if (!keeps_entries(layer)) return 0;
    const std::span<const int32_t> starts = kept_starts(layers_[static_cast<size_t>(layer)]);
    return starts[static_cast<size_t>(head_kv) + 1] - starts[static_cast<size_t>(head_kv)];
}

std::vector<std::vector<int32_t>> PrefixDocument::kept_positions() const {
    std::vector<std::vector<int32_t>> all;
    for (const PrefixLayer& l : layers_) {
        if (l.kept_at.data.empty()) {
            all.resize(all.size() + static_cast<size_t>(header_.layout.n_head_kv));
            continue;
        }
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
        if (keeps_entries(i)) {
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
        2 * kPaddingRows * row + static_cast<size_t>(l.n_head_kv + 1) * sizeof(int32_t);
    return static_cast<size_t>(n) * (2 * row + sizeof(int32_t)) +
           static_cast<size_t>(n_layer) * layer;
}

size_t prefix_dictionary_bytes(const PrefixLayout& l, int64_t n_layer, int64_t k,
                               PrefixStorage storage) {
    const bool is_i8 = storage == PrefixStorage::kI8;
    const ggml_type type = is_i8 ? GGML_TYPE_I8 : GGML_TYPE_F16;
    const auto blocks = static_cast<size_t>(l.blocks());
    // Scales of a key and of every head's value, and every head's logarithm.
    const size_t floats = is_i8 ? 1 + 2 * blocks : blocks;
    const size_t entry =
        static_cast<size_t>(l.width()) * ggml_type_size(type) + floats * sizeof(float);
    return (match_bytes(type, k, l.width()) + static_cast<size_t>(k) * entry) *
           static_cast<size_t>(l.n_codebooks() * n_layer);
}

}  // namespace palimpsest
