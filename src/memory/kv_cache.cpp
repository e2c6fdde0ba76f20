#include "memory/kv_cache.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <istream>
#include <limits>
#include <ostream>

#include "core/error.h"

namespace palimpsest {

namespace {

constexpr int64_t kViewStep = 256;  // slots in view of a reference graph grow by this much
constexpr int64_t kMostPositions = int64_t{1} << 23;  // the kernels count slots in f32
constexpr std::array<char, 8> kMagic = {'P', 'A', 'L', 'K', 'V', '0', '0', '1'};

int64_t slots_needed(const MemoryShape& shape, int64_t n_ctx) {
    int64_t widest = 0;
    for (int64_t i = 0; i < shape.n_layer; ++i) widest = std::max(widest, shape.window(i));
    // A sliding head moves down only after its window has moved on by a window's length.
    const int64_t slots = n_ctx + std::min(2 * widest, n_ctx);
    return (slots + kViewStep - 1) / kViewStep * kViewStep;
}

const KvCacheOptions& checked(const KvCacheOptions& options) {
    require(options.n_ctx >= 1 && options.n_ctx <= kMostPositions, "a context of ", options.n_ctx,
            " positions; it must be 1 to ", kMostPositions);
    return options;
}

/// [d, heads, n] -> [d, n, 1, heads], for ggml_set_rows.
Tensor heads_last(ggml_context* c, Tensor t) {
    Tensor rows = ggml_cont(c, ggml_permute(c, t, 0, 2, 1, 3));
    return ggml_reshape_4d(c, rows, t->ne[0], t->ne[2], 1, t->ne[1]);
}

template <typename T>
void put(std::ostream& out, const T& value) {
    out.write(reinterpret_cast<const char*>(&value), sizeof value);
}

template <typename T>
T take(std::istream& in) {
    T value{};
    in.read(reinterpret_cast<char*>(&value), sizeof value);
    if (!in) throw Error(ErrorCode::kCorrupt, "the saved memory ends too early");
    return value;
}

}  // namespace

KvCache::KvCache(const Backend& backend, const MemoryShape& shape, const KvCacheOptions& options)
    : shape_(shape),
      options_(checked(options)),
      store_(shape, options.entries, slots_needed(shape, options.n_ctx)),
      scratch_(shape, backend.n_threads()),
      heads_(static_cast<size_t>(shape.n_layer * shape.n_head_kv)) {}

KvCache::Head& KvCache::head(int64_t layer, int64_t h) {
    return heads_[static_cast<size_t>(layer * shape_.n_head_kv + h)];
}

const KvCache::Head& KvCache::head(int64_t layer, int64_t h) const {
    return heads_[static_cast<size_t>(layer * shape_.n_head_kv + h)];
}

std::span<const int32_t> KvCache::positions(int64_t layer, int64_t h) const {
    return head(layer, h).positions;
}

uint64_t KvCache::plan(const Step& step) {
    check(step.n >= 1, "a step without positions");
    if (seen_ + step.n > options_.n_ctx) {
        throw Error(ErrorCode::kExhausted,
                    cat("the context is full: it holds ", seen_, " of ", options_.n_ctx,
                        " positions and ", step.n, " more were to be added"));
    }
    step_ = step;
    int64_t last_slot = 0;
    for (const Head& h : heads_) {
        last_slot = std::max(last_slot, h.begin + std::ssize(h.positions) + step.n);
    }
    scratch_.prepare(step.n, last_slot);
    slots_in_view_ = (last_slot + kViewStep - 1) / kViewStep * kViewStep;
    const int64_t view = options_.path == AttentionPath::kReference ? slots_in_view_ : 0;
    return (static_cast<uint64_t>(view) << 32U) | static_cast<uint64_t>(step.n);
}

void KvCache::store(int64_t layer, int64_t h, int64_t i, const float* k, const float* v) noexcept {
    const Head& to = head(layer, h);
    store_.write(layer, h, to.begin + std::ssize(to.positions) + i, k, v);
}

EntryRows KvCache::rows(int64_t layer, int64_t h) const noexcept { return store_.rows(layer, h); }

SlotRange KvCache::visible(int64_t layer, int64_t h, int64_t i) const noexcept {
    const Head& of = head(layer, h);
    const int64_t held = std::ssize(of.positions);
    SlotRange range = {of.begin, of.begin + held + i + 1};
    const int64_t window = shape_.window(layer);
    if (window == 0) return range;
    const int64_t oldest = step_.first_pos + i - window + 1;
    const auto first = std::ranges::lower_bound(of.positions, oldest);
    range.begin += first - of.positions.begin();
    // The step's own positions follow one another.
    if (first == of.positions.end()) range.begin += std::max<int64_t>(0, oldest - step_.first_pos);
    return range;
}

Tensor KvCache::attend(Graph& g, const AttentionInputs& in) {
    if (options_.path == AttentionPath::kReference) return attend_reference(g, in);
    return fused_attention(g, shape_, in, *this, scratch_);
}

Tensor KvCache::attend_reference(Graph& g, const AttentionInputs& in) {
    ggml_context* c = g.ctx();
    const int64_t n = in.q->ne[2];
    const int64_t n_slots = slots_in_view_;
    Tensor where =
        g.input(GGML_TYPE_I64, {n, 1, shape_.n_head_kv, 1},
                [this, layer = in.layer](std::span<std::byte> out) { fill_slots(layer, out); });
    Tensor mask = g.input(GGML_TYPE_F32, {n_slots, n, 1, shape_.n_head_kv},
                          [this, layer = in.layer, n_slots](std::span<std::byte> out) {
                              fill_mask(layer, n_slots, out);
                          });
    // Read through what set_rows returns: it carries the order of writing before reading.
    Tensor k =
        g.keep(ggml_set_rows(c, store_.key_view(g, in.layer, n_slots), heads_last(c, in.k), where));
    Tensor v = g.keep(
        ggml_set_rows(c, store_.value_view(g, in.layer, n_slots), heads_last(c, in.v), where));
    return reference_attention(g, in, k, v, mask);
}

void KvCache::fill_slots(int64_t layer, std::span<std::byte> out) const {
    auto* slot = reinterpret_cast<int64_t*>(out.data());
    for (int64_t h = 0; h < shape_.n_head_kv; ++h) {
        const Head& to = head(layer, h);
        for (int64_t i = 0; i < step_.n; ++i) {
            *slot++ = to.begin + std::ssize(to.positions) + i;
        }
    }
}

void KvCache::fill_mask(int64_t layer, int64_t n_slots, std::span<std::byte> out) const {
    auto* row = reinterpret_cast<float*>(out.data());
    for (int64_t h = 0; h < shape_.n_head_kv; ++h) {
        for (int64_t i = 0; i < step_.n; ++i, row += n_slots) {
            const SlotRange seen = visible(layer, h, i);
            std::fill_n(row, n_slots, -std::numeric_limits<float>::infinity());
            std::fill(row + seen.begin, row + seen.end, 0.0F);
        }
    }
}

void KvCache::settle(const Step& step) {
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        for (int64_t h = 0; h < shape_.n_head_kv; ++h) {
            std::vector<int32_t>& positions = head(layer, h).positions;
            for (int64_t i = 0; i < step.n; ++i) {
                positions.push_back(static_cast<int32_t>(step.first_pos + i));
            }
            if (shape_.window(layer) > 0) slide(layer, h, step.first_pos + step.n);
        }
    }
    seen_ += step.n;
}

/// Forgets what no query from next_pos on can see.
void KvCache::slide(int64_t layer, int64_t h, int64_t next_pos) {
    Head& of = head(layer, h);
    const int64_t oldest = next_pos - shape_.window(layer) + 1;
    const auto first = std::ranges::lower_bound(of.positions, oldest);
    of.begin += first - of.positions.begin();
    of.positions.erase(of.positions.begin(), first);
    if (of.begin < std::min(2 * shape_.window(layer), options_.n_ctx)) return;
    store_.move_to_front(layer, h, of.begin, std::ssize(of.positions));
    of.begin = 0;
    store_.release_from(layer, h, std::ssize(of.positions));
}

void KvCache::reset() {
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        for (int64_t h = 0; h < shape_.n_head_kv; ++h) {
            head(layer, h) = {};
            store_.release_from(layer, h, 0);
        }
    }
    step_ = {};
    seen_ = 0;
}

MemoryUsage KvCache::usage() const {
    MemoryUsage u = {.positions_seen = seen_, .entries_held = 0, .bytes = scratch_.bytes()};
    for (const Head& h : heads_) {
        const int64_t held = std::ssize(h.positions);
        u.entries_held = std::max(u.entries_held, held);
        u.bytes += store_.bytes_of(h.begin + held) + h.positions.capacity() * sizeof(int32_t);
    }
    return u;
}

void KvCache::save(std::ostream& out) const {
    out.write(kMagic.data(), kMagic.size());
    for (const int64_t n : {shape_.n_layer, shape_.n_head_kv, shape_.d_head,
                            static_cast<int64_t>(options_.entries), seen_}) {
        put(out, n);
    }
    auto& store = const_cast<EntryStore&>(store_);  // spans of bytes; only read here
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        for (int64_t h = 0; h < shape_.n_head_kv; ++h) {
            const Head& of = head(layer, h);
            const int64_t n = std::ssize(of.positions);
            put(out, n);
            const auto write = [&](std::span<const std::byte> bytes) {
                out.write(reinterpret_cast<const char*>(bytes.data()), std::ssize(bytes));
            };
            write(std::as_bytes(std::span(of.positions)));
            write(store.key_bytes(layer, h, of.begin, n));
            write(store.value_bytes(layer, h, of.begin, n));
        }
    }
    if (!out) throw Error(ErrorCode::kExhausted, "the memory could not be written (disk full?)");
}

void KvCache::load(std::istream& in) {
    const auto corrupt = [](const std::string& what) {
        throw Error(ErrorCode::kCorrupt, "the saved memory does not fit: " + what);
    };
    if (take<std::array<char, 8>>(in) != kMagic) corrupt("it is no saved key-value cache");
    for (const int64_t expected : {shape_.n_layer, shape_.n_head_kv, shape_.d_head,
                                   static_cast<int64_t>(options_.entries)}) {
        if (take<int64_t>(in) != expected) corrupt("it is of another model or entry type");
    }
    const auto seen = take<int64_t>(in);
    if (seen < 0 || seen > options_.n_ctx) {
        corrupt(cat("it holds ", seen, " positions, this context ", options_.n_ctx));
    }
    reset();
    const auto read = [&](std::span<std::byte> bytes) {
        in.read(reinterpret_cast<char*>(bytes.data()), std::ssize(bytes));
        if (!in) {
            reset();
            corrupt("it ends too early");
        }
    };
    for (int64_t layer = 0; layer < shape_.n_layer; ++layer) {
        for (int64_t h = 0; h < shape_.n_head_kv; ++h) {
            int64_t n = 0;
            read(std::as_writable_bytes(std::span(&n, 1)));
            if (n < 0 || n > seen || (n < seen && shape_.window(layer) == 0)) {
                reset();
                corrupt(cat("a head holds ", n, " of ", seen, " entries"));
            }
            Head& of = head(layer, h);
            of.positions.resize(static_cast<size_t>(n));
            read(std::as_writable_bytes(std::span(of.positions)));
            read(store_.key_bytes(layer, h, 0, n));
            read(store_.value_bytes(layer, h, 0, n));
            const bool disordered =
                std::ranges::adjacent_find(of.positions, std::ranges::greater_equal{}) !=
                of.positions.end();
            if (disordered || (n > 0 && of.positions.front() < 0)) {
                reset();
                corrupt("positions are not ascending");
            }
        }
    }
    seen_ = seen;
}

}  // namespace palimpsest
