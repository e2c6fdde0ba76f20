#pragma once

#include <cstddef>

namespace palimpsest {

/// A range of addresses that takes memory only where it has been written.
///
/// Reading an untouched byte gives zero and takes nothing. release() gives whole pages back to
/// the system, so that a cache that shrinks really shrinks. Movable; not thread-safe.
class ReservedMemory {
 public:
    ReservedMemory() = default;
    /// Throws kExhausted if the address space has no room for `size` bytes.
    explicit ReservedMemory(size_t size);
    ~ReservedMemory();
    ReservedMemory(ReservedMemory&& other) noexcept;
    ReservedMemory& operator=(ReservedMemory&& other) noexcept;
    ReservedMemory(const ReservedMemory&) = delete;
    ReservedMemory& operator=(const ReservedMemory&) = delete;

    [[nodiscard]] std::byte* data() const { return data_; }
    [[nodiscard]] size_t size() const { return size_; }

    /// Gives back the pages that lie wholly inside [offset, offset + size); they read as zero.
    void release(size_t offset, size_t size) noexcept;

    /// Bytes in a page: what taking and giving back is rounded to.
    [[nodiscard]] static size_t page_bytes() noexcept;
    /// `size` rounded up to whole pages.
    [[nodiscard]] static size_t round_to_pages(size_t size) noexcept;

 private:
    std::byte* data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace palimpsest
