#include "core/gguf_split.h"

#include <algorithm>

#include "core/error.h"

namespace palimpsest {

namespace {

constexpr const char* kNumber = "split.no";
constexpr const char* kCount = "split.count";
constexpr int64_t kMostParts = 65535;  // what 16 bits hold

/// The number of a part. Of another width libllama would end the process.
int64_t part_number(const GgufFile& file) {
    const GgufValue* value = file.find(kNumber);
    if (value == nullptr || value->type != GGUF_TYPE_UINT16) {
        throw Error(ErrorCode::kCorrupt, cat("it is a part of a model, but its key '", kNumber,
                                             "' is not there or no whole number of 16 bits"));
    }
    return *file.integer(kNumber);
}

int64_t part_count(const GgufFile& file) {
    const int64_t n = file.integer(kCount).value_or(0);
    if (n < 0 || n > kMostParts) {
        throw Error(ErrorCode::kCorrupt,
                    cat("key '", kCount, "' is ", n, "; it must be 0 to ", kMostParts));
    }
    return n;
}

/// "-00002-of-00003.gguf" for number 1 of 3.
std::string ending(int64_t number, int64_t count) {
    const auto five = [](int64_t n) {
        const std::string digits = std::to_string(n);
        return std::string(5 - std::min<size_t>(5, digits.size()), '0') + digits;
    };
    return cat("-", five(number + 1), "-of-", five(count), ".gguf");
}

}  // namespace

std::vector<std::string> other_parts(const GgufFile& first, const std::string& path) {
    const int64_t n = part_count(first);
    if (n < 2) return {};
    const int64_t number = part_number(first);
    if (number >= n) {
        throw Error(ErrorCode::kCorrupt, cat("it says that it is part ", number + 1, " of ", n));
    }
    const std::string own = ending(number, n);
    const bool is_named_so = path.size() > own.size() && path.ends_with(own);
    const std::string stem = is_named_so ? path.substr(0, path.size() - own.size()) : "NAME";
    require(is_named_so, "it is part ", number + 1, " of ", n, " of a model, and the others are ",
            "found by its name, which must end in '", own, "'");
    require(number == 0, "it is part ", number + 1, " of ", n, " of a model; name the first, '",
            stem + ending(0, n), "'");
    std::vector<std::string> names;
    for (int64_t i = 1; i < n; ++i) names.push_back(stem + ending(i, n));
    return names;
}

void check_part(const GgufFile& part, int64_t number, int64_t count) {
    const int64_t own = part_number(part);
    const int64_t own_count = part_count(part);
    if (own == number && (own_count == count || own_count == 0)) return;
    throw Error(ErrorCode::kCorrupt, cat("it says that it is part ", own + 1, " of ", own_count,
                                         "; by its name it is part ", number + 1, " of ", count));
}

}  // namespace palimpsest
