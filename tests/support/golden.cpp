#include "support/golden.h"

#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <sstream>

#include "engine/default_model.h"

namespace palimpsest::testing {

namespace fs = std::filesystem;

fs::path source_folder() { return PALIMPSEST_SOURCE_DIR; }

std::optional<fs::path> oracles() {
    const char* named = std::getenv("PALIMPSEST_ORACLES");
    fs::path folder = named != nullptr ? fs::path(named) : source_folder() / "../shared/oracles";
    if (!fs::is_directory(folder)) return std::nullopt;
    return folder;
}

std::optional<std::string> default_model() {
    const std::string path = default_model_path();
    if (!fs::is_regular_file(path)) return std::nullopt;
    return path;
}

std::optional<std::string> demo_document() {
    const char* named = std::getenv("PALIMPSEST_DOCUMENT");
    std::string path = named != nullptr ? named : default_cache_folder() + "/documents/gpl-2.txt";
    if (!fs::is_regular_file(path)) return std::nullopt;
    return path;
}

std::string read_text(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    EXPECT_TRUE(in) << path;
    std::ostringstream out;
    out << in.rdbuf();
    return out.str();
}

nlohmann::json read_json(const fs::path& path) { return nlohmann::json::parse(read_text(path)); }

std::vector<float> read_f32(const fs::path& path) {
    const std::string bytes = read_text(path);
    std::vector<float> values(bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
    return values;
}

TemporaryFile::TemporaryFile(std::string_view content, const std::string& suffix) {
    static std::atomic<int> count = 0;
    path_ = fs::temp_directory_path() / ("palimpsest-test-" + std::to_string(getpid()) + "-" +
                                         std::to_string(count++) + suffix);
    std::ofstream out(path_, std::ios::binary);
    out.write(content.data(), static_cast<std::streamsize>(content.size()));
}

TemporaryFile::~TemporaryFile() {
    std::error_code ignored;
    fs::remove(path_, ignored);
}

double max_difference(std::span<const float> a, std::span<const float> b) {
    if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
    double most = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        const double d = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
        if (!(d <= most)) most = std::isnan(d) ? std::numeric_limits<double>::infinity() : d;
    }
    return most;
}

}  // namespace palimpsest::testing
