#pragma once

#include <string>
#include <string_view>

#include "core/random.h"

namespace palimpsest {

/// `pattern` with every slot filled at random, and the slots in what fills them. A slot is a name
/// in braces: one of the grammar's word tables ("{town}"), or a character: {9} a digit, {1} a digit
/// but 0, {5} one of 0 to 5, {h} a hexadecimal digit, {A} a capital, {x} a small letter. Throws
/// kInternal for an unknown name.
std::string expand(std::string_view pattern, Random& random);

/// One of the grammar's table `name`, expanded.
std::string one_of(std::string_view name, Random& random);

/// `text` beginning with a capital.
std::string capitalised(std::string text);

}  // namespace palimpsest
