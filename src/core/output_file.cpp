#include "core/output_file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace palimpsest {

namespace {

namespace fs = std::filesystem;

constexpr int kMostLinks = 40;  // as the system has it
constexpr mode_t kMode = 0666;  // before the user's mask
constexpr int kMostNames = 1000;
constexpr const char* kDescriptors = "/proc/self/fd";

[[noreturn]] void refuse_path(const std::string& path, const std::string& why) {
    throw Error(ErrorCode::kUnwritable, cat("cannot write '", path, "': ", why));
}

std::string reason(int error) { return std::generic_category().message(error); }

fs::path folder_of(const fs::path& path) {
    return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

/// A link such as /proc/self/fd/1, which names a descriptor, not a place.
bool is_descriptor(const fs::path& link) {
    struct statfs info {};
    return statfs(folder_of(link).c_str(), &info) == 0 && info.f_type == PROC_SUPER_MAGIC;
}

enum class Kind { kNew, kRegular, kThrough };

struct Place {
    std::string path;
    Kind kind = Kind::kNew;
};

/// Where links lead from `path`; what is at the end need not be there.
Place place_of(const std::string& path) {
    fs::path at = path;
    for (int hop = 0; hop < kMostLinks; ++hop) {
        struct stat info {};
        if (lstat(at.c_str(), &info) != 0) {
            if (errno == ENOENT) return {at.string(), Kind::kNew};
            refuse_path(path, reason(errno));
        }
        if (S_ISREG(info.st_mode)) return {at.string(), Kind::kRegular};
        if (S_ISDIR(info.st_mode)) refuse_path(path, reason(EISDIR));
        if (S_ISBLK(info.st_mode)) refuse_path(path, "it is a disk");
        if (!S_ISLNK(info.st_mode) || is_descriptor(at)) return {at.string(), Kind::kThrough};
        std::error_code error;
        const fs::path target = fs::read_symlink(at, error);
        if (error) refuse_path(path, error.message());
        at = folder_of(at) / target;
    }
    refuse_path(path, reason(ELOOP));
}

/// So that the new name survives a loss of power. Not all file systems can; then nothing is lost
/// but that promise.
void sync_folder(const fs::path& folder) {
    const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    static_cast<void>(fsync(fd));
    close(fd);
}

}  // namespace

OutputFile::OutputFile(const std::string& path) : name_(path) {
    const Place place = place_of(path);
    path_ = place.path;
    is_through_ = place.kind == Kind::kThrough;
    if (!is_through_) {
        open_beside(place.kind == Kind::kRegular);
        return;
    }
    // A named pipe waits here for who reads it. Appending: a descriptor's file keeps what it has.
    fd_ = open(path_.c_str(), O_WRONLY | O_APPEND | O_NOCTTY | O_CLOEXEC);
    if (fd_ < 0) refuse(errno);
}

void OutputFile::open_beside(bool is_there) {
    struct stat old {};
    // A file that may not be written to is not replaced either, though its folder would allow it.
    if (is_there && access(path_.c_str(), W_OK) != 0) refuse(errno);
    if (is_there && stat(path_.c_str(), &old) != 0) refuse(errno);
    open_unnamed();
    if (fd_ < 0) open_partial();
    if (!is_there) return;
    // Who may not give a file away keeps it.
    static_cast<void>(fchown(fd_, old.st_uid, old.st_gid) == 0 ||
                      fchown(fd_, geteuid(), old.st_gid) == 0);
    static_cast<void>(fchmod(fd_, old.st_mode & 07777U));
}

/// A file that goes with the process, however that ends.
void OutputFile::open_unnamed() {
    if (access(kDescriptors, X_OK) != 0) return;  // without them it could get no name
    fd_ = open(folder_of(path_).c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, kMode);
}

/// Short, for the file's own name may be as long as names can be.
std::string OutputFile::partial_name(int n) const {
    return (folder_of(path_) / cat(".palimpsest-", getpid(), "-", n, ".partial")).string();
}

void OutputFile::open_partial() {
    for (int n = 0; fd_ < 0 && n < kMostNames; ++n) {
        const std::string name = partial_name(n);
        fd_ = open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kMode);
        if (fd_ < 0 && errno != EEXIST) refuse(errno);
        if (fd_ >= 0) partial_ = name;
    }
    if (fd_ < 0) refuse(errno);
}

void OutputFile::name_partial() {
    const std::string from = cat(kDescriptors, "/", fd_);
    for (int n = 0; partial_.empty() && n < kMostNames; ++n) {
        const std::string name = partial_name(n);
        if (linkat(AT_FDCWD, from.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0) {
            partial_ = name;
        } else if (errno != EEXIST) {
            refuse(errno);
        }
    }
    if (partial_.empty()) refuse(EEXIST);
}

OutputFile::~OutputFile() {
    if (fd_ < 0) return;
    close(fd_);
    if (!partial_.empty()) unlink(partial_.c_str());
}

void OutputFile::refuse(int error) const { refuse_path(name_, reason(error)); }

void OutputFile::add(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        const ssize_t n = write(fd_, bytes.data(), bytes.size());
        if (n < 0 && errno == EINTR && !is_through_) continue;
        if (n < 0) refuse(errno);
        if (n == 0) refuse(ENOSPC);
        bytes = bytes.subspan(static_cast<size_t>(n));
    }
}

void OutputFile::close_now() {
    if (close(std::exchange(fd_, -1)) != 0) refuse(errno);
}

void OutputFile::take_place() {
    if (fsync(fd_) != 0) refuse(errno);
    if (partial_.empty()) name_partial();
    if (rename(partial_.c_str(), path_.c_str()) != 0) refuse(errno);
    partial_.clear();
    sync_folder(folder_of(path_));
}

void OutputFile::finish() {
    check(fd_ >= 0, "an output is finished once");
    if (!is_through_) take_place();
    close_now();
}

}  // namespace palimpsest
