#include "server/fields.h"

#include <cmath>

#include "server/api_error.h"
#include "text/json_text.h"
#include "text/utf8.h"

namespace palimpsest {

Fields::Fields(const RequestJson& object, std::string path)
    : object_(object), path_(std::move(path)) {}

std::string Fields::path(std::string_view name) const { return cat(path_, name); }

void Fields::refuse(std::string_view name, const std::string& why) const {
    throw ApiError(400, cat("'", path(name), "' ", why), path(name));
}

const RequestJson* Fields::find(std::string_view name) const {
    const auto at = object_.find(name);
    return at == object_.end() || at->is_null() ? nullptr : &*at;
}

const RequestJson& Fields::need(std::string_view name) const {
    const RequestJson* value = find(name);
    if (value == nullptr) refuse(name, "is missing");
    return *value;
}

std::optional<std::string> Fields::text(std::string_view name) const {
    const RequestJson* value = find(name);
    if (value == nullptr) return std::nullopt;
    if (!value->is_string()) refuse(name, "must be a text");
    return value->get<std::string>();
}

std::optional<bool> Fields::boolean(std::string_view name) const {
    const RequestJson* value = find(name);
    if (value == nullptr) return std::nullopt;
    if (!value->is_boolean()) refuse(name, "must be true or false");
    return value->get<bool>();
}

std::optional<int64_t> Fields::integer(std::string_view name, int64_t least, int64_t most) const {
    const RequestJson* value = find(name);
    if (value == nullptr) return std::nullopt;
    const auto range = [&] { return cat("must be a whole number from ", least, " to ", most); };
    // Some clients write 256.0.
    const bool is_whole = value->is_number_integer() ||
                          (value->is_number_float() && std::fabs(value->get<double>()) < 1e15 &&
                           std::trunc(value->get<double>()) == value->get<double>());
    if (!is_whole) refuse(name, range());
    if (value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
        refuse(name, range());
    }
    const auto n = value->get<int64_t>();
    if (n < least || n > most) refuse(name, cat("is ", n, "; it ", range()));
    return n;
}

std::optional<double> Fields::number(std::string_view name, double least, double most) const {
    const RequestJson* value = find(name);
    if (value == nullptr) return std::nullopt;
    const auto range = [&] { return cat("must be a number from ", least, " to ", most); };
    if (!value->is_number()) refuse(name, range());
    const auto x = value->get<double>();
    if (!std::isfinite(x) || x < least || x > most) refuse(name, cat("is ", x, "; it ", range()));
    return x;
}

std::vector<std::string> Fields::texts(std::string_view name, int64_t most) const {
    const RequestJson* value = find(name);
    if (value == nullptr) return {};
    if (value->is_string()) return {value->get<std::string>()};
    std::vector<std::string> all;
    for (const RequestJson& item : *list(name, most)) {
        if (!item.is_string()) refuse(name, "must be a text, or a list of texts");
        all.push_back(item.get<std::string>());
    }
    return all;
}

std::optional<Fields> Fields::object(std::string_view name) const {
    const RequestJson* value = find(name);
    if (value == nullptr) return std::nullopt;
    if (!value->is_object()) refuse(name, "must be an object");
    return Fields(*value, cat(path(name), "."));
}

const RequestJson* Fields::list(std::string_view name, int64_t most) const {
    const RequestJson* value = find(name);
    if (value == nullptr) return nullptr;
    if (!value->is_array()) refuse(name, "must be a list");
    if (std::ssize(*value) > most) {
        refuse(name, cat("has ", value->size(), " items; at most ", most, " are taken"));
    }
    return value;
}

Fields Fields::item(std::string_view name, const RequestJson& list, size_t i) const {
    const std::string place = cat(name, "[", i, "]");
    if (!list[i].is_object()) refuse(place, "must be an object");
    return Fields(list[i], cat(path(place), "."));
}

RequestJson read_body(std::string_view body) {
    if (const auto bad = find_invalid_utf8(body)) {
        throw ApiError(400, cat("the body is not valid UTF-8, at byte ", *bad));
    }
    if (nests_too_deeply(body)) throw ApiError(400, "the body's JSON nests too deeply");
    RequestJson json = parse_json<RequestJson>(body);
    if (json.is_discarded()) {
        throw ApiError(400, "the body is not valid JSON (or has half a surrogate pair in it)");
    }
    if (!json.is_object()) throw ApiError(400, "the body must be a JSON object");
    return json;
}

}  // namespace palimpsest
