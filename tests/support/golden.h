#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace palimpsest::testing {

/// Top folder of the project's sources.
std::filesystem::path source_folder();

/// Folder of golden vectors: $PALIMPSEST_ORACLES, else ../shared/oracles beside the project.
/// nullopt if it is not there.
std::optional<std::filesystem::path> oracles();

/// Folder of RULER's own samples: $PALIMPSEST_RULER, else ../shared/data/ruler beside the project.
/// nullopt if it is not there.
std::optional<std::filesystem::path> ruler_samples();

/// Inputs of field cases: $PALIMPSEST_FIELD, else ../shared/data/field/inputs beside the project.
/// nullopt if they are not there.
std::optional<std::filesystem::path> field_inputs();

/// The default model: $PALIMPSEST_MODEL, else where set-up puts it. nullopt if it is not there.
std::optional<std::string> default_model();

/// Gemma 3 270M: $PALIMPSEST_GEMMA, else where `scripts/setup.sh gemma` puts it. nullopt if it is
/// not there.
std::optional<std::string> gemma_model();

/// The demo's document: $PALIMPSEST_DOCUMENT, else where set-up puts it. nullopt if it is not
/// there.
std::optional<std::string> demo_document();

nlohmann::json read_json(const std::filesystem::path& path);
/// Raw little-endian f32.
std::vector<float> read_f32(const std::filesystem::path& path);
std::string read_text(const std::filesystem::path& path);

/// A file for one test, removed with the object.
class TemporaryFile {
 public:
    explicit TemporaryFile(std::string_view content, const std::string& suffix = "");
    ~TemporaryFile();
    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;
    [[nodiscard]] std::string path() const { return path_.string(); }

 private:
    std::filesystem::path path_;
};

/// A folder for one test, removed with the object.
class TemporaryFolder {
 public:
    TemporaryFolder();
    ~TemporaryFolder();
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;
    [[nodiscard]] std::string path() const { return path_.string(); }
    /// Writes a file, in folders that it makes, and returns its path.
    std::string write(const std::string& name, std::string_view content);

 private:
    std::filesystem::path path_;
};

/// Largest absolute difference; infinite if lengths differ or a value is not a number, which a
/// plain maximum would ignore.
double max_difference(std::span<const float> a, std::span<const float> b);

}  // namespace palimpsest::testing

/// Skips the running test, saying why, unless golden vectors are there.
#define REQUIRE_ORACLES()                                                 \
    const auto oracle_folder = palimpsest::testing::oracles();            \
    if (!oracle_folder)                                                   \
    GTEST_SKIP() << "no golden vectors; set PALIMPSEST_ORACLES to their " \
                    "folder"

#define REQUIRE_RULER()                                             \
    const auto ruler_folder = palimpsest::testing::ruler_samples(); \
    if (!ruler_folder) GTEST_SKIP() << "no RULER samples; set PALIMPSEST_RULER to their folder"

#define REQUIRE_FIELD()                                            \
    const auto field_folder = palimpsest::testing::field_inputs(); \
    if (!field_folder)                                             \
    GTEST_SKIP() << "no inputs of field cases; set PALIMPSEST_FIELD to their folder"

#define REQUIRE_MODEL()                                           \
    const auto model_path = palimpsest::testing::default_model(); \
    if (!model_path) GTEST_SKIP() << "no default model; run 'make setup' or set PALIMPSEST_MODEL"

#define REQUIRE_GEMMA()                                         \
    const auto gemma_path = palimpsest::testing::gemma_model(); \
    if (!gemma_path)                                            \
    GTEST_SKIP() << "no Gemma 3; run 'scripts/setup.sh gemma' or set PALIMPSEST_GEMMA"

#define REQUIRE_DOCUMENT()                                           \
    const auto document_path = palimpsest::testing::demo_document(); \
    if (!document_path)                                              \
    GTEST_SKIP() << "no demo document; run 'make setup' or set PALIMPSEST_DOCUMENT to a text"
