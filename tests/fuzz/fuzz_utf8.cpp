// UTF-8 helpers on arbitrary bytes: repaired text is valid, valid text stays as it is.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "text/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const auto bad = palimpsest::find_invalid_utf8(text);
    const std::string repaired = palimpsest::replace_invalid_utf8(text);
    const size_t unfinished = palimpsest::unfinished_utf8(text);
    if (palimpsest::find_invalid_utf8(repaired)) __builtin_trap();
    if (bad && *bad >= size) __builtin_trap();
    if (!bad && repaired != text) __builtin_trap();
    if (unfinished > 3 || unfinished > size) __builtin_trap();
    if (unfinished > 0 && !bad) __builtin_trap();
    return 0;
}
