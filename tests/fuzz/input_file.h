#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>

#include "expect.h"

namespace palimpsest::fuzzing {

/// One file, written anew for every input: for what reads files by their names. What reads it must
/// have let go of it before the next input.
class InputFile {
 public:
    InputFile()
        : path_((std::filesystem::temp_directory_path() / "palimpsest-fuzz-XXXXXX").string()),
          handle_(mkstemp(path_.data())) {
        expect(handle_ >= 0, "no temporary file can be made");
    }
    ~InputFile() {
        close(handle_);
        unlink(path_.c_str());
    }
    InputFile(const InputFile&) = delete;
    InputFile& operator=(const InputFile&) = delete;

    const std::string& holding(std::span<const uint8_t> bytes) {
        const bool is_written =
            ftruncate(handle_, 0) == 0 &&
            pwrite(handle_, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size());
        expect(is_written, "the temporary file cannot be written");
        return path_;
    }

 private:
    std::string path_;
    int handle_;
};

}  // namespace palimpsest::fuzzing
