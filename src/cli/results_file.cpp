#include "cli/results_file.h"

#include <algorithm>
#include <filesystem>
#include <iomanip>
#include <sstream>

#include "core/text_hash.h"

namespace palimpsest {

namespace {

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

ResultsFile::ResultsFile(const std::string& path, const Read& read) : file_(path) {
    Known known = read(file_.text(), path);
    keys_.insert(std::make_move_iterator(known.keys.begin()),
                 std::make_move_iterator(known.keys.end()));
    file_.cut(known.whole_bytes);
}

void ResultsFile::add(const std::string& key, const std::string& line) {
    file_.add(line + "\n");
    keys_.insert(key);
}

}  // namespace palimpsest
