// The GGUF reader on arbitrary bytes: it loads, or it throws Error. Every accessor over every key.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/error.h"
#include "core/gguf.h"
#include "model/model.h"

namespace {

using palimpsest::Error;
using palimpsest::GgufFile;

/// Keys are read from the file itself: the reader lists none.
std::string_view next_word(std::span<const std::byte> bytes, size_t& at) {
    const char* data = reinterpret_cast<const char*>(bytes.data());
    while (at < bytes.size() && (data[at] < 'a' || data[at] > 'z')) ++at;
    const size_t begin = at;
    while (at < bytes.size() && data[at] >= '.' && data[at] <= 'z') ++at;
    return {data + begin, at - begin};
}

template <typename Ask>
void ask(const Ask& question) {
    try {
        question();
    } catch (const Error&) {
        return;  // an answer of another type
    }
}

void ask_all(const GgufFile& file, std::string_view key) {
    ask([&] { (void)file.integer(key); });
    ask([&] { (void)file.number(key); });
    ask([&] { (void)file.boolean(key); });
    ask([&] { (void)file.text(key); });
    ask([&] { (void)file.texts(key); });
    ask([&] { (void)file.integers(key); });
    ask([&] { (void)file.floats(key); });
}

/// Touches the ends of every tensor: the sanitizer objects if they lie outside.
unsigned ends_of(const GgufFile& file) {
    unsigned sum = 0;
    for (const auto& t : file.tensors()) {
        if (t.data.empty()) __builtin_trap();
        sum += std::to_integer<unsigned>(t.data.front()) + std::to_integer<unsigned>(t.data.back());
        if (file.find_tensor(t.name) != &t) __builtin_trap();
    }
    return sum;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const auto bytes = std::as_bytes(std::span(data, size));
    try {
        const GgufFile file(bytes);
        for (size_t at = 0; at < size;) {
            const std::string_view key = next_word(bytes, at);
            if (file.has(key)) ask_all(file, key);
        }
        volatile unsigned sum = ends_of(file);
        (void)sum;
        (void)palimpsest::read_config(palimpsest::ModelKeys(file));
    } catch (const Error&) {
        return 0;  // what is asked of a damaged file
    }
    return 0;
}
