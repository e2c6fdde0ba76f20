#pragma once

#include <string>

namespace palimpsest {

/// Takes a lock on an open file or folder for as long as it stays open. Throws kInvalidArgument,
/// naming `path` and the process that has it, if there is one. (Where a file system knows no
/// locks, there is none.)
void lock_file(int fd, const std::string& path);

/// Is `fd` still what `path` names? Another process may have replaced or removed it.
[[nodiscard]] bool is_at(int fd, const std::string& path);

/// A folder that one process works in.
class FolderLock {
 public:
    /// Makes the folder if it is not there. Throws as lock_file() does, and kUnwritable.
    explicit FolderLock(const std::string& path);
    ~FolderLock();
    FolderLock(const FolderLock&) = delete;
    FolderLock& operator=(const FolderLock&) = delete;

 private:
    int fd_ = -1;
};

}  // namespace palimpsest
