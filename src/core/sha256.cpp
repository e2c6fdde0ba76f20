#include "core/sha256.h"

// The plain functions, not the ones that look for a provider first: those allocate, and end the
// process where memory is out.
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "core/error.h"
#include "core/mapped_file.h"

namespace palimpsest {

struct Sha256::State {
    SHA256_CTX context;
};

namespace {

void must(int result) { check(result == 1, "OpenSSL computes SHA-256"); }

}  // namespace

Sha256::Sha256() : state_(std::make_unique<State>()) { must(SHA256_Init(&state_->context)); }

Sha256::~Sha256() = default;

void Sha256::add(std::span<const std::byte> bytes) {
    must(SHA256_Update(&state_->context, bytes.data(), bytes.size()));
}

std::string Sha256::hex() {
    constexpr std::string_view kDigits = "0123456789abcdef";
    std::array<unsigned char, SHA256_DIGEST_LENGTH> bytes{};
    must(SHA256_Final(bytes.data(), &state_->context));
    std::string text;
    for (const unsigned char b : bytes) {
        text += kDigits[b / 16U];
        text += kDigits[b % 16U];
    }
    return text;
}

std::string sha256_of_file(const std::string& path) {
    constexpr size_t kAtOnce = 16 << 20;
    const MappedFile file(path);
    Sha256 sum;
    for (auto rest = file.bytes(); !rest.empty();) {
        const auto part = rest.first(std::min(kAtOnce, rest.size()));
        sum.add(part);
        file.forget(part);
        rest = rest.subspan(part.size());
    }
    return sum.hex();
}

}  // namespace palimpsest
