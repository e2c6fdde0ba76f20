#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace palimpsest {

/// A whole file, read-only, mapped into memory. Movable; the bytes live as long as the object.
class MappedFile {
 public:
    /// Throws kNotFound (missing, unreadable, a directory) or kCorrupt (empty).
    explicit MappedFile(const std::string& path);
    ~MappedFile();
    MappedFile(MappedFile&& other) noexcept;
    MappedFile& operator=(MappedFile&& other) noexcept;
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;

    [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, size_}; }

    /// Tells the system that `part` is not needed for now; it is read again when touched.
    void forget(std::span<const std::byte> part) const noexcept;

 private:
    const std::byte* data_ = nullptr;
    size_t size_ = 0;
};

/// Whose bytes are at this address: the file's name, without control characters, or nullptr if no
/// MappedFile has it. A file that somebody cuts short while it is mapped is missed only when it is
/// read, by a signal; this is safe to ask in its handler.
[[nodiscard]] const char* mapped_file_at(const void* address) noexcept;

}  // namespace palimpsest
