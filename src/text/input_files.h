#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace palimpsest {

// Files that a user names. All of these throw kNotFound for what cannot be read, and kCorrupt,
// naming the place, for what is not as it should be.

/// Throws kInvalidArgument, saying which flag names it, if `path` is empty.
void require_named(const std::string& path, std::string_view task, std::string_view what,
                   std::string_view flag);

/// The last part of a path: what results may show of it.
[[nodiscard]] std::string base_name(const std::string& path);

/// Valid UTF-8 of at most 1 GiB that is not all white space; "\r\n" becomes "\n".
[[nodiscard]] std::string read_text_file(const std::string& path);

[[nodiscard]] nlohmann::json read_json_file(const std::string& path);

struct JsonLine {
    nlohmann::json value;  // an object
    std::string where;     // "FILE, line 3"
};

/// The first `most` lines that are not blank.
[[nodiscard]] std::vector<JsonLine> read_json_lines(const std::string& path, int64_t most);

/// A member that must be there and be text.
[[nodiscard]] const std::string& text_field(const nlohmann::json& object, const std::string& name,
                                            const std::string& where);
/// A member that must be there and be a list of at least `least` texts; one text is a list of one.
[[nodiscard]] std::vector<std::string> texts_field(const nlohmann::json& object,
                                                   const std::string& name,
                                                   const std::string& where, size_t least = 1);
/// A member that must be there and be a whole number from 0.
[[nodiscard]] int64_t count_field(const nlohmann::json& object, const std::string& name,
                                  const std::string& where);
/// A member that must be there and be a list.
[[nodiscard]] const nlohmann::json& list_field(const nlohmann::json& object,
                                               const std::string& name, const std::string& where);

}  // namespace palimpsest
