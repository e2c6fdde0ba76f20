#include "core/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "core/error.h"

namespace palimpsest {

namespace {

constexpr int kMostTries = 100;  // of what is replaced or removed under our hands

/// "process 4711", from the system's list of locks; it lists none of another machine's.
std::string holder_of(int fd) {
    struct stat info {};
    if (fstat(fd, &info) != 0) return "another process";
    const std::string inode = cat(":", info.st_ino);
    std::ifstream locks("/proc/locks");
    for (std::string line; std::getline(locks, line);) {
        std::istringstream words(line);
        std::string number, kind, manner, access, process, file;
        words >> number >> kind >> manner >> access >> process >> file;
        if (kind == "FLOCK" && file.ends_with(inode)) return cat("process ", process);
    }
    return "another process";
}

void lock_file(int fd, const std::string& path) {
    int failed = flock(fd, LOCK_EX | LOCK_NB);
    while (failed != 0 && errno == EINTR) failed = flock(fd, LOCK_EX | LOCK_NB);
    if (failed == 0 || errno != EWOULDBLOCK) return;
    throw Error(ErrorCode::kInvalidArgument,
                cat("'", path, "' is in use by ", holder_of(fd),
                    "; wait until it ends, or write to another place"));
}

/// Is `fd` still what `path` names?
bool is_at(int fd, const std::string& path) {
    struct stat ours {};
    struct stat there {};
    return fstat(fd, &ours) == 0 && stat(path.c_str(), &there) == 0 &&
           ours.st_dev == there.st_dev && ours.st_ino == there.st_ino;
}

/// Makes the folder, if it is not there; -1 if it is gone again.
int open_folder(const std::string& path) {
    std::error_code error;
    std::filesystem::create_directories(path, error);
    const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0 || (errno == ENOENT && !error)) return fd;
    throw Error(ErrorCode::kUnwritable,
                cat("cannot write to '", path,
                    "': ", error ? error.message() : std::generic_category().message(errno)));
}

}  // namespace

int open_locked(const std::string& path, const std::function<int()>& open_once) {
    for (int i = 0; i < kMostTries; ++i) {
        const int fd = open_once();
        if (fd < 0) continue;
        try {
            lock_file(fd, path);
        } catch (...) {
            close(fd);
            throw;
        }
        if (is_at(fd, path)) return fd;
        close(fd);
    }
    throw Error(ErrorCode::kUnwritable, cat("'", path, "' is replaced again and again"));
}

FolderLock::FolderLock(const std::string& path)
    : fd_(open_locked(path, [&path] { return open_folder(path); })) {}

FolderLock::~FolderLock() {
    if (fd_ >= 0) close(fd_);
}

}  // namespace palimpsest
