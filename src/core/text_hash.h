#pragma once

#include <cstdint>
#include <string_view>

namespace palimpsest {

/// FNV-1a, 64 bits: the same number for the same bytes everywhere. Not for secrets.
/// `start` continues an earlier hash.
[[nodiscard]] constexpr uint64_t text_hash(std::string_view text,
                                           uint64_t start = 0xcbf29ce484222325ULL) {
    uint64_t hash = start;
    for (const char c : text) {
        hash ^= static_cast<unsigned char>(c);
        hash *= 0x100000001b3ULL;
    }
    return hash;
}

}  // namespace palimpsest
