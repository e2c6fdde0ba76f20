#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace palimpsest {

namespace {

[[noreturn]] void fail(const std::string& path, int error) {
    throw Error(ErrorCode::kNotFound,
                cat("cannot read '", path, "': ", std::generic_category().message(error)));
}

/// Closes a descriptor on every way out.
struct Descriptor {
    explicit Descriptor(int value) : fd(value) {}
    ~Descriptor() {
        if (fd >= 0) close(fd);
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    int fd;
};

/// A mapping that a signal handler can find. Those that find no place here are only not named.
struct Listed {
    std::atomic<const std::byte*> begin = nullptr;  // nullptr: free
    size_t size = 0;
    std::array<char, 256> name = {};
};

std::array<Listed, 256>& listed() {
    static std::array<Listed, 256> all;
    return all;
}

std::mutex& listing() {
    static std::mutex mutex;
    return mutex;
}

void enlist(const std::byte* begin, size_t size, const std::string& path) {
    const std::lock_guard lock(listing());
    const auto place =
        std::ranges::find_if(listed(), [](const Listed& l) { return l.begin == nullptr; });
    if (place == listed().end()) return;
    place->size = size;
    place->name = {};
    const size_t n = std::min(path.size(), place->name.size() - 1);
    std::ranges::transform(path.substr(path.size() - n), place->name.begin(), [](char c) {
        const auto byte = static_cast<unsigned char>(c);
        return byte < 0x20 || byte == 0x7F ? '?' : c;
    });
    place->begin = begin;  // last: from now on it is found
}

void delist(const std::byte* begin) {
    const std::lock_guard lock(listing());
    for (Listed& l : listed()) {
        if (l.begin == begin) l.begin = nullptr;
    }
}

}  // namespace

const char* mapped_file_at(const void* address) noexcept {
    const auto at = reinterpret_cast<uintptr_t>(address);
    for (const Listed& l : listed()) {
        const auto begin = reinterpret_cast<uintptr_t>(l.begin.load());
        if (begin != 0 && at >= begin && at - begin < l.size) return l.name.data();
    }
    return nullptr;
}

MappedFile::MappedFile(const std::string& path) {
    // O_NONBLOCK: opening a named pipe must fail below, not wait for a writer.
    const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (file.fd < 0) fail(path, errno);
    struct stat info {};
    if (fstat(file.fd, &info) != 0) fail(path, errno);
    if (S_ISDIR(info.st_mode)) fail(path, EISDIR);
    if (!S_ISREG(info.st_mode)) {
        throw Error(ErrorCode::kNotFound, cat("cannot read '", path, "': not a regular file"));
    }
    if (info.st_size == 0) throw Error(ErrorCode::kCorrupt, cat("'", path, "' is empty"));
    size_ = static_cast<size_t>(info.st_size);
    void* mapped = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd, 0);
    if (mapped == MAP_FAILED) fail(path, errno);
    data_ = static_cast<const std::byte*>(mapped);
    enlist(data_, size_, path);
}

MappedFile::~MappedFile() {
    if (data_ == nullptr) return;
    delist(data_);
    munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
}

void MappedFile::forget(std::span<const std::byte> part) const noexcept {
    // The mapping starts on a page, so offsets into it say where pages begin.
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const auto offset = static_cast<size_t>(part.data() - data_);
    const size_t begin = (offset + page - 1) / page * page;
    const size_t end = (offset + part.size()) / page * page;
    if (begin < end) madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
}

}  // namespace palimpsest
