#include "cli/results_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <iomanip>
#include <sstream>
#include <system_error>

#include "cli/setup.h"
#include "cli/terminal.h"
#include "core/error.h"
#include "core/text_hash.h"

namespace palimpsest {

namespace {

[[noreturn]] void cannot_write(const std::string& path) {
    throw OutputError(cat("'", path, "': ", std::generic_category().message(errno)));
}

constexpr size_t kHashedBytes = size_t{4} << 20;  // of a model file: its metadata, mostly

}  // namespace

std::string model_name(const std::string& path, const GgufFile& file) {
    const std::span<const std::byte> bytes = file.bytes();
    const uint64_t hash = text_hash(
        {reinterpret_cast<const char*>(bytes.data()), std::min(kHashedBytes, bytes.size())});
    std::ostringstream text;
    text << std::filesystem::path(path).filename().string() << ' ' << std::hex << std::setw(8)
         << std::setfill('0') << static_cast<uint32_t>(hash ^ (hash >> 32U));
    return text.str();
}

ResultsFile::ResultsFile(const std::string& path, const Read& read) : path_(path) {
    std::error_code error;
    std::string text;
    if (std::filesystem::exists(path, error)) text = read_file(path);
    Known known = read(text, path);
    keys_.insert(std::make_move_iterator(known.keys.begin()),
                 std::make_move_iterator(known.keys.end()));
    fd_ = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd_ < 0) cannot_write(path);
    if (known.whole_bytes < text.size() &&
        ftruncate(fd_, static_cast<off_t>(known.whole_bytes)) != 0) {
        cannot_write(path);
    }
}

ResultsFile::~ResultsFile() {
    if (fd_ >= 0) close(fd_);
}

void ResultsFile::add(const std::string& key, const std::string& line) {
    const std::string ended = line + "\n";
    for (size_t done = 0; done < ended.size();) {
        const ssize_t n = write(fd_, ended.data() + done, ended.size() - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) cannot_write(path_);
        done += static_cast<size_t>(n);
    }
    keys_.insert(key);
}

}  // namespace palimpsest
