#include "memory/option_reader.h"

#include <algorithm>
#include <charconv>
#include <numeric>

#include "core/error.h"

namespace palimpsest {

namespace {

/// Least number of single-character insertions, deletions and replacements.
size_t edit_distance(std::string_view a, std::string_view b) {
    std::vector<size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), size_t{0});
    for (size_t i = 1; i <= a.size(); ++i) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b.size(); ++j) {
            const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
            diagonal = row[j];
            row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
        }
    }
    return row.back();
}

}  // namespace

void add_option(OptionMap& options, std::string_view text) {
    const size_t at = text.find('=');
    if (at == std::string_view::npos || at == 0) {
        throw Error(ErrorCode::kInvalidArgument,
                    cat("setting '", text, "' is not of the form NAME=VALUE"));
    }
    options[std::string(text.substr(0, at))] = std::string(text.substr(at + 1));
}

const std::string* OptionReader::find(std::string_view name) {
    known_.emplace_back(name);
    const auto it = options_.find(name);
    return it == options_.end() ? nullptr : &it->second;
}

void OptionReader::refuse(std::string_view name, const std::string& value,
                          const std::string& wanted) const {
    throw Error(ErrorCode::kInvalidArgument,
                cat(owner_, ": ", name, "=", value, "; it must be ", wanted));
}

int64_t OptionReader::integer(std::string_view name, int64_t standard, int64_t least,
                              int64_t most) {
    const std::string* value = find(name);
    if (value == nullptr) return standard;
    int64_t n = 0;
    const char* end = value->data() + value->size();
    const auto [rest, error] = std::from_chars(value->data(), end, n);
    if (error != std::errc() || rest != end || n < least || n > most) {
        refuse(name, *value, cat("a whole number from ", least, " to ", most));
    }
    return n;
}

double OptionReader::number(std::string_view name, double standard, double least, double most) {
    const std::string* value = find(name);
    if (value == nullptr) return standard;
    double x = 0;
    const char* end = value->data() + value->size();
    const auto [rest, error] = std::from_chars(value->data(), end, x);
    if (error != std::errc() || rest != end || !(x >= least && x <= most)) {
        refuse(name, *value, cat("a number from ", least, " to ", most));
    }
    return x;
}

std::string OptionReader::text(std::string_view name, std::string_view standard) {
    const std::string* value = find(name);
    return value == nullptr ? std::string(standard) : *value;
}

void OptionReader::finish() const {
    for (const auto& [name, value] : options_) {
        if (std::ranges::find(known_, name) != known_.end()) continue;
        std::string names;
        for (const std::string& k : known_) names += cat(names.empty() ? "" : ", ", k);
        throw Error(ErrorCode::kInvalidArgument,
                    cat(owner_, " has no setting '", name, "'; ",
                        names.empty() ? "it has none" : cat("it has: ", names)));
    }
}

std::string nearest_name(std::string_view name, const std::vector<std::string_view>& names) {
    std::string best;
    size_t least = std::max<size_t>(2, name.size() / 2) + 1;
    for (const std::string_view candidate : names) {
        const size_t distance = edit_distance(name, candidate);
        if (distance >= least) continue;
        least = distance;
        best = candidate;
    }
    return best;
}

std::string unknown_name(std::string_view kind, std::string_view name,
                         const std::vector<std::string_view>& names) {
    std::string all;
    for (const std::string_view n : names) all += cat(all.empty() ? "" : ", ", n);
    const std::string near = nearest_name(name, names);
    return cat("no ", kind, " is called '", name, "'",
               near.empty() ? "; there are: " : cat("; did you mean '", near, "'? There are: "),
               all);
}

}  // namespace palimpsest
