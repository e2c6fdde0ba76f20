#include "core/fingerprint.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <span>

namespace palimpsest {

namespace {

constexpr size_t kSampled = 256;

class Hash {
 public:
    void add(std::span<const std::byte> bytes) {
        for (const std::byte b : bytes) {
            value_ ^= static_cast<uint64_t>(b);
            value_ *= 0x100000001b3ULL;
        }
    }
    [[nodiscard]] uint64_t value() const { return value_; }

 private:
    uint64_t value_ = 0xcbf29ce484222325ULL;
};

}  // namespace

std::string model_fingerprint(const GgufFile& file) {
    Hash hash;
    for (const GgufTensor& t : file.tensors()) {
        const auto type = static_cast<int32_t>(t.type);
        hash.add(std::as_bytes(std::span(t.name)));
        hash.add(std::as_bytes(std::span(&type, 1)));
        hash.add(std::as_bytes(std::span(t.shape)));
        hash.add(t.data.first(std::min(kSampled, t.data.size())));
    }
    std::array<char, 17> digits{};
    std::snprintf(digits.data(), digits.size(), "%016llx",
                  static_cast<unsigned long long>(hash.value()));
    return digits.data();
}

}  // namespace palimpsest
