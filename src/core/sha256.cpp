#include "core/sha256.h"

#include <openssl/evp.h>

#include <array>

#include "core/error.h"
#include "core/mapped_file.h"

namespace palimpsest {

struct Sha256::State {
    EVP_MD_CTX* context = EVP_MD_CTX_new();
    State() = default;
    ~State() { EVP_MD_CTX_free(context); }
    State(const State&) = delete;
    State& operator=(const State&) = delete;
};

namespace {

void must(bool ok) {
    if (!ok) throw Error(ErrorCode::kExhausted, "OpenSSL computes no SHA-256; is memory out?");
}

}  // namespace

Sha256::Sha256() : state_(std::make_unique<State>()) {
    must(state_->context != nullptr &&
         EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) == 1);
}

Sha256::~Sha256() = default;

void Sha256::add(std::span<const std::byte> bytes) {
    must(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1);
}

std::string Sha256::hex() {
    constexpr std::string_view kDigits = "0123456789abcdef";
    std::array<unsigned char, EVP_MAX_MD_SIZE> bytes{};
    unsigned int n = 0;
    must(EVP_DigestFinal_ex(state_->context, bytes.data(), &n) == 1);
    std::string text;
    for (unsigned int i = 0; i < n; ++i) {
        text += kDigits[bytes.at(i) / 16U];
        text += kDigits[bytes.at(i) % 16U];
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
