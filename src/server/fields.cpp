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

namespace {

/// Counts what a text has in it: objects that keep their order are searched key by key.
class Counter final : public nlohmann::json_sax<nlohmann::json> {
 public:
    bool null() override { return one(); }
    bool boolean(bool /*value*/) override { return one(); }
    bool number_integer(int64_t /*value*/) override { return one(); }
    bool number_unsigned(uint64_t /*value*/) override { return one(); }
    bool number_float(double /*value*/, const std::string& /*text*/) override { return one(); }
    bool string(std::string& /*value*/) override { return one(); }
    bool binary(nlohmann::json::binary_t& /*value*/) override { return one(); }
    bool start_object(size_t /*n*/) override {
        keys_.push_back(0);
        return one();
    }
    bool key(std::string& /*name*/) override { return ++keys_.back() <= kMostKeys; }
    bool end_object() override {
        keys_.pop_back();
        return true;
    }
    bool start_array(size_t /*n*/) override { return one(); }
    bool end_array() override { return true; }
    bool parse_error(size_t /*at*/, const std::string& /*token*/,
                     const nlohmann::json::exception& /*error*/) override {
        is_json = false;
        return false;
    }

    bool is_json = true;
    static constexpr int64_t kMostKeys = 4096, kMostValues = int64_t{1} << 21;

 private:
    bool one() { return ++n_values_ <= kMostValues; }
    std::vector<int64_t> keys_;
    int64_t n_values_ = 0;
};

}  // namespace

RequestJson read_body(std::string_view body) {
    if (const auto bad = find_invalid_utf8(body)) {
        throw ApiError(400, cat("the body is not valid UTF-8, at byte ", *bad));
    }
    if (nests_too_deeply(body)) throw ApiError(400, "the body's JSON nests too deeply");
    Counter counter;
    if (!nlohmann::json::sax_parse(body, &counter) && counter.is_json) {
        throw ApiError(400, cat("the body's JSON has an object of more than ", Counter::kMostKeys,
                                " names, or more than ", Counter::kMostValues, " values"));
    }
    RequestJson json = parse_json<RequestJson>(body);
    if (json.is_discarded()) {
        throw ApiError(400, "the body is not valid JSON (or has half a surrogate pair in it)");
    }
    if (!json.is_object()) throw ApiError(400, "the body must be a JSON object");
    return json;
}

}  // namespace palimpsest
