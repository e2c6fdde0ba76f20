#include "text/input_files.h"

#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "text/json_text.h"
#include "text/text_parts.h"
#include "text/utf8.h"

namespace palimpsest {

namespace fs = std::filesystem;

namespace {

constexpr std::uintmax_t kMostBytes = std::uintmax_t{1} << 30;

std::ifstream open(const std::string& path) {
    std::error_code error;
    if (fs::is_directory(path, error)) {
        throw Error(ErrorCode::kNotFound, cat("'", path, "' is a folder; a file is wanted"));
    }
    require(!fs::is_character_file(path, error), "'", path, "' is a device; a file is wanted");
    std::ifstream in(path, std::ios::binary);
    if (!in) throw Error(ErrorCode::kNotFound, cat("cannot read '", path, "'; is it there?"));
    const std::uintmax_t size = fs::file_size(path, error);
    require(static_cast<bool>(error) || size <= kMostBytes, "'", path, "' has ", size,
            " bytes; at most ", kMostBytes, " are read");
    return in;
}

[[noreturn]] void cannot_read_on(const std::string& path) {
    throw Error(ErrorCode::kNotFound, cat("cannot read '", path, "' to its end"));
}

std::string rest_of(std::ifstream& in, const std::string& path) {
    try {
        std::string text((std::istreambuf_iterator<char>(in)), {});
        if (!in.bad()) return text;
    } catch (const std::ios_base::failure&) {
        cannot_read_on(path);
    }
    cannot_read_on(path);
}

[[noreturn]] void corrupt(const std::string& where, const std::string& what) {
    throw Error(ErrorCode::kCorrupt, cat(where, ": ", what));
}

const nlohmann::json& field(const nlohmann::json& object, const std::string& name,
                            const std::string& where) {
    if (!object.is_object()) corrupt(where, cat("a ", object.type_name(), ", not an object"));
    const auto it = object.find(name);
    if (it == object.end()) corrupt(where, cat("no field '", name, "'"));
    return *it;
}

}  // namespace

void require_named(const std::string& path, std::string_view task, std::string_view what,
                   std::string_view flag) {
    require(!path.empty(), "task '", task, "' needs ", what, "; name it with ", flag);
}

std::string base_name(const std::string& path) {
    const fs::path whole = fs::path(path).lexically_normal();
    return (whole.has_filename() ? whole : whole.parent_path()).filename().string();
}

std::string read_text_file(const std::string& path) {
    std::ifstream in = open(path);
    std::string text = without_mark(rest_of(in, path));
    if (const auto at = find_invalid_utf8(text)) {
        corrupt(path, cat("byte ", *at, " is not UTF-8; a text is wanted"));
    }
    if (strip(text).empty()) corrupt(path, "it holds no words");
    size_t n_kept = 0;
    for (size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n') continue;
        text[n_kept++] = text[i];
    }
    text.resize(n_kept);
    return text;
}

nlohmann::json read_json_file(const std::string& path) {
    std::ifstream in = open(path);
    nlohmann::json value = parse_json(rest_of(in, path));
    if (value.is_discarded()) corrupt(path, "it is not JSON, or nests too deeply");
    return value;
}

std::vector<JsonLine> read_json_lines(const std::string& path, int64_t most) {
    std::ifstream in = open(path);
    std::vector<JsonLine> lines;
    std::string text;
    for (int64_t number = 1; static_cast<int64_t>(lines.size()) < most; ++number) {
        if (!std::getline(in, text)) {
            if (in.bad()) cannot_read_on(path);
            break;
        }
        if (strip(text).empty()) continue;
        JsonLine line = {parse_json(text), cat("'", path, "', line ", number)};
        if (!line.value.is_object()) corrupt(line.where, "it is not a JSON object");
        lines.push_back(std::move(line));
    }
    if (lines.empty()) corrupt(path, "it holds no lines");
    return lines;
}

const std::string& text_field(const nlohmann::json& object, const std::string& name,
                              const std::string& where) {
    const nlohmann::json& value = field(object, name, where);
    if (!value.is_string()) corrupt(where, cat("field '", name, "' is not a text"));
    return value.get_ref<const std::string&>();
}

std::vector<std::string> texts_field(const nlohmann::json& object, const std::string& name,
                                     const std::string& where, size_t least) {
    const nlohmann::json& value = field(object, name, where);
    if (value.is_string()) return {value.get<std::string>()};
    std::vector<std::string> texts;
    for (const nlohmann::json& text : list_field(object, name, where)) {
        if (!text.is_string()) corrupt(where, cat("field '", name, "' holds more than texts"));
        texts.push_back(text.get<std::string>());
    }
    if (texts.size() < least) corrupt(where, cat("field '", name, "' is empty"));
    return texts;
}

int64_t count_field(const nlohmann::json& object, const std::string& name,
                    const std::string& where) {
    const nlohmann::json& value = field(object, name, where);
    if (!value.is_number_unsigned() || value.get<uint64_t>() > INT64_MAX) {
        corrupt(where, cat("field '", name, "' is not a whole number from 0"));
    }
    return value.get<int64_t>();
}

const nlohmann::json& list_field(const nlohmann::json& object, const std::string& name,
                                 const std::string& where) {
    const nlohmann::json& value = field(object, name, where);
    if (!value.is_array()) corrupt(where, cat("field '", name, "' is not a list"));
    return value;
}

}  // namespace palimpsest
