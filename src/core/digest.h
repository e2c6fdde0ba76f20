#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace palimpsest {

/// A 64-bit check sum of bytes, several to a step: any single changed byte changes it. Against
/// damage and mistakes, not against malice. Pieces are told apart by their lengths.
class Digest {
 public:
    void add(std::span<const std::byte> bytes);
    void add(std::string_view text) { add(std::as_bytes(std::span(text))); }
    /// 16 hexadecimal digits.
    [[nodiscard]] std::string hex() const;

 private:
    std::array<uint64_t, 4> lanes_ = {0x243f6a8885a308d3ULL, 0x13198a2e03707344ULL,
                                      0xa4093822299f31d0ULL, 0x082efa98ec4e6c89ULL};
};

/// Of one text.
[[nodiscard]] std::string digest_of(std::string_view text);

}  // namespace palimpsest
