#include "core/reserved_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace palimpsest {

ReservedMemory::ReservedMemory(size_t size) : size_(round_to_pages(size)) {
    void* mapped = mmap(nullptr, size_, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) {
        throw Error(ErrorCode::kExhausted, cat("cannot reserve ", size_, " bytes of addresses: ",
                                               std::generic_category().message(errno)));
    }
    data_ = static_cast<std::byte*>(mapped);
#ifdef MADV_NOHUGEPAGE
    // A huge page would take 2 MiB for one entry and make the byte count of a budget untrue.
    madvise(data_, size_, MADV_NOHUGEPAGE);
#endif
}

ReservedMemory::~ReservedMemory() {
    if (data_ != nullptr) munmap(data_, size_);
}

ReservedMemory::ReservedMemory(ReservedMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

ReservedMemory& ReservedMemory::operator=(ReservedMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
}

void ReservedMemory::release(size_t offset, size_t size) noexcept {
    const size_t page = page_bytes();
    const size_t begin = round_to_pages(offset);
    const size_t end = (offset + size) / page * page;
    if (begin < end) madvise(data_ + begin, end - begin, MADV_DONTNEED);
}

size_t ReservedMemory::page_bytes() noexcept {
    static const auto kPage = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    return kPage;
}

size_t ReservedMemory::round_to_pages(size_t size) noexcept {
    const size_t page = page_bytes();
    return (size + page - 1) / page * page;
}

}  // namespace palimpsest
