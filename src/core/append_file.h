#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace palimpsest {

/// A file that grows at its end and is one process's as long as the object lives. What is no
/// regular file (a device, a pipe) is only written to. Throws kUnwritable, naming the path, where
/// it cannot be; kInvalidArgument, naming the process, if another one has it.
class AppendFile {
 public:
    explicit AppendFile(const std::string& path);
    ~AppendFile();
    AppendFile(const AppendFile&) = delete;
    AppendFile& operator=(const AppendFile&) = delete;

    /// Everything in it.
    [[nodiscard]] std::string text() const;
    /// Keeps its first `n` bytes, if it has more.
    void cut(size_t n);
    /// Whole or not at all.
    void add(std::string_view text);

 private:
    [[noreturn]] void refuse(int error) const;

    std::string path_;
    int fd_ = -1;
    bool is_regular_ = false;
};

}  // namespace palimpsest
