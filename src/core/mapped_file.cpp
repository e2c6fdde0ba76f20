#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
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

}  // namespace

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
}

MappedFile::~MappedFile() {
    if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
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
