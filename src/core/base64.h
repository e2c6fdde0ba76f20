#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace palimpsest {

// Base64 (RFC 4648), over OpenSSL.

[[nodiscard]] std::string to_base64(std::span<const std::byte> bytes);
/// The bytes of a text in either alphabet, padded or not, with white space anywhere; nullopt if it
/// is none.
[[nodiscard]] std::optional<std::string> from_base64(std::string_view text);

}  // namespace palimpsest
