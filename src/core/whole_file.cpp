#include "core/whole_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <system_error>

#include "core/error.h"

namespace palimpsest {

namespace {

std::string reason(int error) { return std::generic_category().message(error); }

/// The file that becomes the wanted one; removed unless it has.
class PartialFile {
 public:
    explicit PartialFile(const std::string& path)
        : path_(path), partial_(cat(path, ".partial-", getpid())) {
        fd_ = open(partial_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        if (fd_ < 0) {
            throw Error(ErrorCode::kNotFound, cat("cannot write '", path, "': ", reason(errno)));
        }
    }
    ~PartialFile() {
        if (fd_ >= 0) close(fd_);
        if (!is_done_) unlink(partial_.c_str());
    }
    PartialFile(const PartialFile&) = delete;
    PartialFile& operator=(const PartialFile&) = delete;

    void add(std::span<const std::byte> bytes) {
        while (!bytes.empty()) {
            const ssize_t n = write(fd_, bytes.data(), bytes.size());
            if (n < 0 && errno == EINTR) continue;
            if (n <= 0) refuse();
            bytes = bytes.subspan(static_cast<size_t>(n));
        }
    }

    void finish() {
        if (fsync(fd_) != 0) refuse();
        const int fd = fd_;
        fd_ = -1;
        if (close(fd) != 0) refuse();
        if (rename(partial_.c_str(), path_.c_str()) != 0) refuse();
        is_done_ = true;
        sync_folder();
    }

 private:
    [[noreturn]] void refuse() const {
        throw Error(ErrorCode::kExhausted, cat("cannot write '", path_, "': ", reason(errno)));
    }
    /// So that the new name survives a loss of power. Not all file systems can; then nothing is
    /// lost but that promise.
    void sync_folder() const {
        const std::filesystem::path folder = std::filesystem::path(path_).parent_path();
        const int fd = open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_CLOEXEC);
        if (fd < 0) return;
        static_cast<void>(fsync(fd));
        close(fd);
    }

    std::string path_, partial_;
    int fd_ = -1;
    bool is_done_ = false;
};

}  // namespace

void write_whole_file(const std::string& path, std::span<const std::span<const std::byte>> parts) {
    PartialFile file(path);
    for (const std::span<const std::byte> part : parts) file.add(part);
    file.finish();
}

void write_whole_file(const std::string& path, const std::string& text) {
    const std::array<std::span<const std::byte>, 1> parts = {std::as_bytes(std::span(text))};
    write_whole_file(path, parts);
}

}  // namespace palimpsest
