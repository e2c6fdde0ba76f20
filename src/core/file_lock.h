#pragma once

#include <functional>
#include <string>

namespace palimpsest {

/// What `open_once` opens at `path`, locked for as long as it stays open; opened again where it was
/// replaced or removed in between. `open_once` returns a descriptor, -1 to be asked again, or
/// throws. Throws kInvalidArgument, naming `path` and the process that has it, if there is one;
/// kUnwritable if it is replaced again and again. (Where a file system knows no locks, there is
/// none.)
[[nodiscard]] int open_locked(const std::string& path, const std::function<int()>& open_once);

/// A folder that one process works in.
class FolderLock {
 public:
    /// Makes the folder if it is not there. Throws as open_locked() does, and kUnwritable.
    explicit FolderLock(const std::string& path);
    ~FolderLock();
    FolderLock(const FolderLock&) = delete;
    FolderLock& operator=(const FolderLock&) = delete;

 private:
    int fd_ = -1;
};

}  // namespace palimpsest
