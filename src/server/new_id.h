#pragma once

#include <string>
#include <string_view>

namespace palimpsest {

/// "chatcmpl-0123...": a prefix, and 24 random hexadecimal digits.
[[nodiscard]] std::string new_id(std::string_view prefix);

}  // namespace palimpsest
