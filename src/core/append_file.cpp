#include "core/append_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>

#include "core/error.h"
#include "core/file_lock.h"

namespace palimpsest {

namespace {

constexpr mode_t kMode = 0666;  // before the user's mask

bool names_a_stream(const std::string& path) {
    struct stat info {};
    return stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode);
}

}  // namespace

AppendFile::AppendFile(const std::string& path) : path_(path), is_regular_(!names_a_stream(path)) {
    const int way = is_regular_ ? O_RDWR | O_CREAT : O_WRONLY | O_NOCTTY;
    const auto open_once = [&] {
        const int fd = open(path.c_str(), way | O_APPEND | O_CLOEXEC, kMode);
        if (fd < 0) refuse(errno);
        return fd;
    };
    fd_ = is_regular_ ? open_locked(path, open_once) : open_once();
}

AppendFile::~AppendFile() {
    if (fd_ >= 0) close(fd_);
}

void AppendFile::refuse(int error) const {
    throw Error(ErrorCode::kUnwritable,
                cat("cannot write '", path_, "': ", std::generic_category().message(error)));
}

std::string AppendFile::text() const {
    std::string all;
    std::array<char, 1 << 16> part{};
    while (is_regular_) {
        const ssize_t n = pread(fd_, part.data(), part.size(), static_cast<off_t>(all.size()));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            throw Error(ErrorCode::kNotFound,
                        cat("cannot read '", path_, "': ", std::generic_category().message(errno)));
        }
        if (n == 0) break;
        all.append(part.data(), static_cast<size_t>(n));
    }
    return all;
}

void AppendFile::cut(size_t n) {
    struct stat info {};
    if (!is_regular_) return;
    if (fstat(fd_, &info) != 0) refuse(errno);
    const auto size = static_cast<off_t>(n);
    if (size < info.st_size && ftruncate(fd_, size) != 0) refuse(errno);
}

void AppendFile::add(std::string_view text) {
    struct stat before {};
    if (fstat(fd_, &before) != 0) refuse(errno);
    while (!text.empty()) {
        const ssize_t n = write(fd_, text.data(), text.size());
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            const int error = errno;
            // Half of it would be read as something else one day. If even that fails, whoever
            // reads it finds half a line.
            if (is_regular_) static_cast<void>(ftruncate(fd_, before.st_size) == 0);
            refuse(error);
        }
        text.remove_prefix(static_cast<size_t>(n));
    }
}

}  // namespace palimpsest
