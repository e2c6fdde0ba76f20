// Trained weights from arbitrary files: they load, or Error says what is wrong. Models whose
// channels are ordered both ways, one of them with a window, so that files of either are turned.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "input_file.h"
#include "memory/policy/eviction_weights.h"

namespace {

using palimpsest::Backend;
using palimpsest::EvictionWeights;
using palimpsest::MemoryShape;
using palimpsest::fuzzing::InputFile;
using palimpsest::fuzzing::is_refused;

MemoryShape shape_of(bool adjacent) {
    MemoryShape s = {.n_layer = 2, .n_head = 4, .n_head_kv = 2, .d_head = 8, .n_embd = 16};
    s.rotation = {.frequency = {1.0F, 0.5F, 0.25F, 0.125F}, .adjacent = adjacent};
    if (adjacent) s.windows = {0, 8};
    return s;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const Backend kBackend(1);
    static const std::array<MemoryShape, 2> kShapes = {shape_of(false), shape_of(true)};
    static InputFile file;
    const std::string& path = file.holding({data, size});
    for (const MemoryShape& shape : kShapes) {
        is_refused([&] {
            const EvictionWeights weights(path, kBackend, shape, {});
            const bool has_any = weights.indexer() != nullptr || weights.latent() != nullptr ||
                                 weights.gate() != nullptr;
            palimpsest::fuzzing::expect(has_any, "weights without any part");
        });
    }
    return 0;
}
