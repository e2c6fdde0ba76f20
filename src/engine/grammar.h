#pragma once

#include <string_view>

namespace palimpsest {

/// Throws kInvalidArgument, saying what, for a grammar in GBNF that is malformed or that libllama
/// would hang, take all memory or end the process for.
void check_grammar(std::string_view text);

}  // namespace palimpsest
