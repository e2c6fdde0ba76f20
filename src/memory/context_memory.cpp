#include "memory/context_memory.h"

#include <atomic>

#include "core/error.h"

namespace palimpsest {

namespace {

uint64_t next_serial() {
    static std::atomic<uint64_t> last = 0;
    return ++last;
}

}  // namespace

LayerShape MemoryShape::layer(int64_t i) const {
    if (!layers.empty()) return at(i);
    return AttentionLayer{.n_head_kv = n_head_kv, .d_head = d_head, .window = window(i)};
}

bool MemoryShape::slides() const {
    for (int64_t i = 0; i < n_layer; ++i) {
        if (window(i) > 0) return true;
    }
    return false;
}

std::string unlike_layer(const MemoryShape& shape) {
    check(shape.layers.empty() ||
              (std::ssize(shape.layers) == shape.n_layer && shape.windows.empty()),
          "every layer is described once");
    for (int64_t i = 0; i < std::ssize(shape.layers); ++i) {
        const LayerShape layer = shape.layer(i);
        if (const auto* state = std::get_if<RecurrentLayer>(&layer); state != nullptr) {
            return cat("layer ", i, " is recurrent ('", state->kind, "'), it does not attend");
        }
        const auto& of = std::get<AttentionLayer>(layer);
        if (of.has_sinks) return cat("layer ", i, " has learned attention sinks");
        if (of.n_head_kv != shape.n_head_kv || of.d_head != shape.d_head) {
            return cat("layer ", i, " has ", of.n_head_kv, " KV heads of ", of.d_head,
                       " channels, others have ", shape.n_head_kv, " of ", shape.d_head);
        }
    }
    return {};
}

ContextMemory::ContextMemory() : serial_(next_serial()) {}

Tensor ContextMemory::recur(Graph& /*g*/, const RecurrenceInputs& in) {
    throw Error(ErrorCode::kUnsupported,
                cat("this memory has no states for recurrent layers, such as layer ", in.layer));
}

Tensor ContextMemory::with_before(Graph& /*g*/, int64_t layer, Tensor /*channels*/) {
    throw Error(ErrorCode::kUnsupported,
                cat("this memory keeps nothing for the convolution of layer ", layer));
}

void ContextMemory::rewind(int64_t /*position*/) {
    throw Error(ErrorCode::kUnsupported, "this memory cannot go back");
}

void ContextMemory::save(std::ostream& /*out*/) const {
    throw Error(ErrorCode::kUnsupported, "this memory cannot be saved");
}

void ContextMemory::load(std::istream& /*in*/) {
    throw Error(ErrorCode::kUnsupported, "this memory cannot be loaded");
}

}  // namespace palimpsest
