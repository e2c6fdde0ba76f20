#include "core/base64.h"

#include <openssl/evp.h>

namespace palimpsest {

std::string to_base64(std::span<const std::byte> bytes) {
    std::string text((bytes.size() + 2) / 3 * 4 + 1, '\0');  // and the zero that OpenSSL writes
    const int n = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                                  reinterpret_cast<const unsigned char*>(bytes.data()),
                                  static_cast<int>(bytes.size()));
    text.resize(static_cast<size_t>(n));
    return text;
}

std::optional<std::string> from_base64(std::string_view text) {
    constexpr std::string_view kSpace = " \t\r\n";
    std::string plain;
    for (const char c : text) {
        if (kSpace.find(c) == std::string_view::npos) plain += c == '-' ? '+' : c == '_' ? '/' : c;
    }
    while (!plain.empty() && plain.back() == '=') plain.pop_back();
    if (plain.find('=') != std::string::npos || plain.size() % 4 == 1) return std::nullopt;
    const size_t n_padding = (4 - plain.size() % 4) % 4;
    plain.append(n_padding, '=');
    std::string bytes(plain.size() / 4 * 3, '\0');
    const int n = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                                  reinterpret_cast<const unsigned char*>(plain.data()),
                                  static_cast<int>(plain.size()));
    if (n < 0) return std::nullopt;
    bytes.resize(static_cast<size_t>(n) - n_padding);
    return bytes;
}

}  // namespace palimpsest
