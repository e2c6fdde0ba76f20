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

namespace {

std::optional<std::string> file_at(const std::string& path) {
    if (!fs::is_regular_file(path)) return std::nullopt;
    return path;
}

/// nullptr if it is not set.
const char* environment(const char* variable) {
    return std::getenv(variable);  // NOLINT(concurrency-mt-unsafe): nothing here changes it
}

/// The file that a variable names, else one that set-up fetched.
std::optional<std::string> in_cache(const char* variable, const std::string& place) {
    const char* named = environment(variable);
    return file_at(named != nullptr ? named : default_cache_folder() + "/" + place);
}

/// The folder that a variable names, else one beside the project.
std::optional<fs::path> shared_folder(const char* variable, const char* place) {
    const char* named = environment(variable);
    fs::path folder = named != nullptr ? fs::path(named) : source_folder() / place;
    if (!fs::is_directory(folder)) return std::nullopt;
    return folder;
}

}  // namespace

fs::path source_folder() { return PALIMPSEST_SOURCE_DIR; }

std::optional<fs::path> oracles() {
    return shared_folder("PALIMPSEST_ORACLES", "../shared/oracles");
}

std::optional<fs::path> ruler_samples() {
    return shared_folder("PALIMPSEST_RULER", "../shared/data/ruler");
}

std::optional<fs::path> field_inputs() {
    return shared_folder("PALIMPSEST_FIELD", "../shared/data/field/inputs");
}

std::optional<std::string> default_model() { return file_at(default_model_path()); }

std::optional<std::string> gemma_model() {
    return in_cache("PALIMPSEST_GEMMA", "models/gemma-3-270m-q4_k_m.gguf");
}

std::optional<std::string> demo_document() {
    return in_cache("PALIMPSEST_DOCUMENT", "documents/gpl-2.txt");
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

TemporaryFolder::TemporaryFolder() {
    static std::atomic<int> count = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("palimpsest-test-folder-" + std::to_string(getpid()) + "-" + std::to_string(count++));
    std::filesystem::create_directories(path_);
}

TemporaryFolder::~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
}

std::string TemporaryFolder::write(const std::string& name, std::string_view content) {
    const std::filesystem::path file = path_ / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream out(file, std::ios::binary);
    out.write(content.data(), static_cast<std::streamsize>(content.size()));
    return file.string();
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
