#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace palimpsest {

using RequestJson = nlohmann::ordered_json;

/// A JSON object of a request, read field by field. What is not asked for is ignored; what is
/// there and of another kind, or beyond its range, is refused with 400 and its name (ApiError).
/// null counts as absent.
class Fields {
 public:
    /// `path`: what stands before names in messages, "messages[3]."; `object` must outlive it.
    explicit Fields(const RequestJson& object, std::string path = {});

    [[nodiscard]] bool has(std::string_view name) const { return find(name) != nullptr; }
    [[nodiscard]] const RequestJson* find(std::string_view name) const;
    /// Throws if it is not there.
    [[nodiscard]] const RequestJson& need(std::string_view name) const;

    [[nodiscard]] std::optional<std::string> text(std::string_view name) const;
    [[nodiscard]] std::optional<bool> boolean(std::string_view name) const;
    [[nodiscard]] std::optional<int64_t> integer(std::string_view name, int64_t least,
                                                 int64_t most) const;
    [[nodiscard]] std::optional<double> number(std::string_view name, double least,
                                               double most) const;
    /// One text, or a list of at most `most` of them.
    [[nodiscard]] std::vector<std::string> texts(std::string_view name, int64_t most) const;
    [[nodiscard]] std::optional<Fields> object(std::string_view name) const;
    /// A list of at most `most`; nullptr: it is not there.
    [[nodiscard]] const RequestJson* list(std::string_view name, int64_t most) const;
    /// The i-th of a list by that name, which must be an object.
    [[nodiscard]] Fields item(std::string_view name, const RequestJson& list, size_t i) const;

    [[nodiscard]] const RequestJson& json() const { return object_; }
    [[nodiscard]] std::string path(std::string_view name) const;
    [[noreturn]] void refuse(std::string_view name, const std::string& why) const;

 private:
    const RequestJson& object_;
    std::string path_;
};

/// A request's body. Throws ApiError 400 if it is no JSON object, nests too deeply, or has text
/// that is not Unicode.
[[nodiscard]] RequestJson read_body(std::string_view body);

}  // namespace palimpsest
