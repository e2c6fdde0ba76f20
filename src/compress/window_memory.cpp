#include "compress/window_memory.h"

#include <algorithm>

#include "core/error.h"

namespace palimpsest {

namespace {

MemoryShape checked(const MemoryShape& shape) {
    if (const std::string what = unlike_layer(shape); !what.empty()) {
        throw Error(ErrorCode::kUnsupported, cat("an encoder whose ", what));
    }
    return shape;
}

MemoryShape of_one_layer(MemoryShape shape) {
    shape.n_layer = 1;
    shape.windows.clear();
    shape.layers.clear();
    return shape;
}

}  // namespace

WindowMemory::WindowMemory(const Backend& backend, const MemoryShape& shape, int64_t n_most,
                           bool is_bidirectional)
    : shape_(checked(shape)),
      n_most_(n_most),
      is_bidirectional_(is_bidirectional),
      entries_(of_one_layer(shape), GGML_TYPE_F32, n_most),
      scratch_(shape_, backend.n_threads()) {}

uint64_t WindowMemory::plan(const Step& step) {
    check(step.n <= n_most_, "a window is no longer than its memory");
    n_ = step.n;
    scratch_.prepare(n_, n_);
    return 0;
}

Tensor WindowMemory::attend(Graph& g, const AttentionInputs& in) {
    return fused_attention(g, shape_, in, *this, scratch_);
}

MemoryUsage WindowMemory::usage() const {
    const size_t bytes = static_cast<size_t>(shape_.n_head_kv) * entries_.bytes_of(n_most_);
    return {.positions_seen = 0, .entries_held = 0, .bytes = bytes + scratch_.bytes()};
}

MemoryReport WindowMemory::report() const {
    MemoryReport r;
    r.policy = "window of an encoder";
    r.entries = "f32";
    r.bytes.entries = static_cast<size_t>(shape_.n_head_kv) * entries_.bytes_of(n_most_);
    r.bytes.scratch = scratch_.bytes();
    return r;
}

void WindowMemory::store(int64_t /*layer*/, int64_t head, int64_t i, const float* k,
                         const float* v) noexcept {
    entries_.write(0, head, i, k, v);
}

EntryRows WindowMemory::rows(int64_t /*layer*/, int64_t head) const noexcept {
    return entries_.rows(0, head);
}

SlotRange WindowMemory::visible(int64_t layer, int64_t /*head*/, int64_t i) const noexcept {
    if (is_bidirectional_) return {0, n_};
    const int64_t window = shape_.window(layer);
    return {window > 0 ? std::max<int64_t>(0, i + 1 - window) : 0, i + 1};
}

}  // namespace palimpsest
