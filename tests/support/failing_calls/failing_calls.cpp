// Loaded before a program (LD_PRELOAD), makes one of its calls to the system fail, from the start
// of main() to its end:
//
//   FAIL_KIND  write (write, fsync, rename, ftruncate, opening to write), read (read, mmap of a
//   file,
//              opening to read) or allocation (malloc and its like)
//   FAIL_AT    the how many-th, from 1
//   FAIL_ON    set: and every one after it
//   FAIL_MARK  a file that is made when it happens
//
// Nothing here may allocate, nor write through what it stands before.

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>

// NOLINTBEGIN

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
}

namespace {

std::atomic<bool> is_on = false;
std::atomic<long> n_calls = 0;
long fail_at = 0;
bool fails_on = false;
char fail_kind = 0;  // the first letter
char mark[4096];
int (*program_main)(int, char**, char**) = nullptr;
FILE* (*real_fopen)(const char*, const char*) = nullptr;

bool fails(char kind, int error) {
    if (kind != fail_kind || !is_on.load()) return false;
    const long n = ++n_calls;
    const bool is_it = n == fail_at || (fails_on && n > fail_at);
    if (n == fail_at && mark[0] != 0) {
        const long fd = syscall(SYS_openat, AT_FDCWD, mark, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        if (fd >= 0) syscall(SYS_close, fd);
    }
    if (is_it) errno = error;
    return is_it;
}

int run_main(int argc, char** argv, char** environment) {
    const char* kind = std::getenv("FAIL_KIND");
    const char* at = std::getenv("FAIL_AT");
    const char* to = std::getenv("FAIL_MARK");
    fail_kind = kind != nullptr ? kind[0] : '\0';
    fail_at = at != nullptr ? std::atol(at) : 0;
    fails_on = std::getenv("FAIL_ON") != nullptr;
    if (to != nullptr) std::strncpy(mark, to, sizeof mark - 1);
    is_on = true;
    const int status = program_main(argc, argv, environment);
    is_on = false;
    return status;
}

bool writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY; }

int open_at(const char* path, int flags, mode_t mode) {
    if (fails(writes(flags) ? 'w' : 'r', writes(flags) ? ENOSPC : EIO)) return -1;
    return static_cast<int>(syscall(SYS_openat, AT_FDCWD, path, flags, mode));
}

}  // namespace

extern "C" {

int __libc_start_main(int (*main)(int, char**, char**), int argc, char** argv, void (*init)(),
                      void (*fini)(), void (*rtld_fini)(), void* stack_end) {
    using Start = int (*)(int (*)(int, char**, char**), int, char**, void (*)(), void (*)(),
                          void (*)(), void*);
    program_main = main;
    real_fopen = reinterpret_cast<FILE* (*)(const char*, const char*)>(dlsym(RTLD_NEXT, "fopen"));
    const auto start = reinterpret_cast<Start>(dlsym(RTLD_NEXT, "__libc_start_main"));
    return start(run_main, argc, argv, init, fini, rtld_fini, stack_end);
}

void* malloc(size_t n) { return fails('a', ENOMEM) ? nullptr : __libc_malloc(n); }
void* calloc(size_t n, size_t of) { return fails('a', ENOMEM) ? nullptr : __libc_calloc(n, of); }
void* realloc(void* p, size_t n) { return fails('a', ENOMEM) ? nullptr : __libc_realloc(p, n); }
void* memalign(size_t to, size_t n) {
    return fails('a', ENOMEM) ? nullptr : __libc_memalign(to, n);
}
void* aligned_alloc(size_t to, size_t n) {
    return fails('a', ENOMEM) ? nullptr : __libc_memalign(to, n);
}
int posix_memalign(void** p, size_t to, size_t n) {
    if (fails('a', ENOMEM)) return ENOMEM;
    *p = __libc_memalign(to, n);
    return *p == nullptr ? ENOMEM : 0;
}

ssize_t write(int fd, const void* from, size_t n) {
    return fails('w', ENOSPC) ? -1 : syscall(SYS_write, fd, from, n);
}
ssize_t writev(int fd, const struct iovec* parts, int n) {
    return fails('w', ENOSPC) ? -1 : syscall(SYS_writev, fd, parts, n);
}
int fsync(int fd) { return fails('w', EIO) ? -1 : static_cast<int>(syscall(SYS_fsync, fd)); }
int rename(const char* from, const char* to) {
    if (fails('w', EIO)) return -1;
    return static_cast<int>(syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}
int ftruncate(int fd, off_t n) {
    return fails('w', EIO) ? -1 : static_cast<int>(syscall(SYS_ftruncate, fd, n));
}
int ftruncate64(int fd, off_t n) { return ftruncate(fd, n); }

ssize_t read(int fd, void* to, size_t n) {
    return fails('r', EIO) ? -1 : syscall(SYS_read, fd, to, n);
}
ssize_t readv(int fd, const struct iovec* parts, int n) {
    return fails('r', EIO) ? -1 : syscall(SYS_readv, fd, parts, n);
}
ssize_t pread(int fd, void* to, size_t n, off_t at) {
    return fails('r', EIO) ? -1 : syscall(SYS_pread64, fd, to, n, at);
}
ssize_t pread64(int fd, void* to, size_t n, off_t at) { return pread(fd, to, n, at); }
void* mmap(void* at, size_t n, int access, int flags, int fd, off_t from) {
    if (fd >= 0 && fails('r', ENOMEM)) return MAP_FAILED;
    return reinterpret_cast<void*>(syscall(SYS_mmap, at, n, access, flags, fd, from));
}
void* mmap64(void* at, size_t n, int access, int flags, int fd, off_t from) {
    return mmap(at, n, access, flags, fd, from);
}

int open(const char* path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(more, mode_t) : 0;
    va_end(more);
    return open_at(path, flags, mode);
}
int open64(const char* path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(more, mode_t) : 0;
    va_end(more);
    return open_at(path, flags, mode);
}
FILE* fopen(const char* path, const char* mode) {
    const bool is_write = std::strpbrk(mode, "wa+") != nullptr;
    return fails(is_write ? 'w' : 'r', is_write ? ENOSPC : EIO) ? nullptr : real_fopen(path, mode);
}
FILE* fopen64(const char* path, const char* mode) { return fopen(path, mode); }

}  // extern "C"

// NOLINTEND
