#pragma once

#include <string>
#include <string_view>

namespace palimpsest {

/// What an English word is without its endings ("relations" and "related": "relat"). Lower-case
/// ASCII letters and digits are wanted; a digit counts as a consonant.
///
/// Porter's algorithm (M. F. Porter, An algorithm for suffix stripping, Program 14(3), 1980), with
/// the changes that the Python package NLTK makes to it, since ROUGE is computed with those.
[[nodiscard]] std::string stem_of(std::string_view word);

}  // namespace palimpsest
