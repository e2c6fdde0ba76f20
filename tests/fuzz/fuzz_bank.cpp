// Trained banks of states from arbitrary files: they load, and a memory can be made of them, or
// Error says what is wrong.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "input_file.h"
#include "memory/recurrent/recurrent_memory.h"

namespace {

using palimpsest::Backend;
using palimpsest::BankReadOut;
using palimpsest::MemoryShape;
using palimpsest::RecurrentLayer;
using palimpsest::RecurrentMemory;
using palimpsest::fuzzing::InputFile;
using palimpsest::fuzzing::is_refused;

MemoryShape shape() {
    MemoryShape s = {.n_layer = 2, .n_embd = 6};
    const RecurrentLayer layer = {
        .kind = "gated-delta", .n_head = 2, .n_key_head = 2, .n_rows = 4, .n_columns = 5};
    s.layers = {layer, layer};
    return s;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const Backend kBackend(1);
    static const MemoryShape kShape = shape();
    static InputFile file;
    const std::string& path = file.holding({data, size});
    is_refused([&] {
        const auto bank =
            std::make_shared<const BankReadOut>(path, kBackend, kShape, "0123456789abcdef");
        const RecurrentMemory memory(kBackend, kShape, {}, bank);
        palimpsest::fuzzing::expect(memory.usage().bytes > 0, "a memory of no bytes");
    });
    return 0;
}
