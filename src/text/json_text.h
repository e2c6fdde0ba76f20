#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace palimpsest {

// All JSON is read and written through these. `Json` is the library's own, or the one in order.

/// Does a text nest lists and objects deeper than JSON of any kind here does? The library works its
/// way through them by recursion.
[[nodiscard]] bool nests_too_deeply(std::string_view text);

/// The value of a text; a discarded one if it is no JSON, or nests too deeply.
template <typename Json = nlohmann::json>
[[nodiscard]] Json parse_json(std::string_view text) {
    if (nests_too_deeply(text)) return Json(Json::value_t::discarded);
    return Json::parse(text, nullptr, false);
}

/// JSON in one line, or indented by so many spaces. What is not UTF-8 in names and texts is written
/// as U+FFFD.
template <typename Json>
[[nodiscard]] std::string json_text(const Json& value, int indent = -1) {
    return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

/// The same in one line of some 60 bytes, for a message: what is longer is cut.
[[nodiscard]] std::string brief_json(const nlohmann::json& value);

}  // namespace palimpsest
