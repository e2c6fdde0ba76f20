#include "core/digest.h"

#include <bit>
#include <cstdio>
#include <cstring>

namespace palimpsest {

namespace {

constexpr uint64_t kFactor = 0x9e3779b97f4a7c15ULL;  // odd, so that every step can be undone

uint64_t mixed(uint64_t state, uint64_t word) { return std::rotl((state ^ word) * kFactor, 29); }

}  // namespace

void Digest::add(std::span<const std::byte> bytes) {
    const uint64_t length = bytes.size();
    lanes_[0] = mixed(lanes_[0], length);
    while (bytes.size() >= sizeof lanes_) {
        std::array<uint64_t, 4> words{};
        std::memcpy(words.data(), bytes.data(), sizeof words);
        for (size_t i = 0; i < words.size(); ++i) lanes_[i] = mixed(lanes_[i], words[i]);
        bytes = bytes.subspan(sizeof lanes_);
    }
    std::array<uint64_t, 4> rest{};
    if (!bytes.empty()) std::memcpy(rest.data(), bytes.data(), bytes.size());
    for (size_t i = 0; i < rest.size(); ++i) lanes_[i] = mixed(lanes_[i], rest[i]);
}

std::string Digest::hex() const {
    uint64_t value = 0;
    for (const uint64_t lane : lanes_) value = mixed(value, lane);
    std::array<char, 17> digits{};
    std::snprintf(digits.data(), digits.size(), "%016llx", static_cast<unsigned long long>(value));
    return digits.data();
}

std::string digest_of(std::string_view text) {
    Digest sum;
    sum.add(text);
    return sum.hex();
}

}  // namespace palimpsest
