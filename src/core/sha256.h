#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace palimpsest {

/// SHA-256 of bytes that come bit by bit, over OpenSSL.
class Sha256 {
 public:
    Sha256();
    ~Sha256();
    Sha256(const Sha256&) = delete;
    Sha256& operator=(const Sha256&) = delete;

    void add(std::span<const std::byte> bytes);
    /// 64 hexadecimal digits; nothing can be added afterwards.
    [[nodiscard]] std::string hex();

 private:
    struct State;
    std::unique_ptr<State> state_;
};

/// Of a whole file. Throws kNotFound if it cannot be read.
[[nodiscard]] std::string sha256_of_file(const std::string& path);

}  // namespace palimpsest
