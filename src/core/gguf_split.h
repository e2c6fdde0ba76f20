#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/gguf.h"

namespace palimpsest {

/// Where the other parts are of the file that `first` was read from: beside it, named as it is but
/// for the number ("x-00001-of-00003.gguf"), as libllama finds them. Empty if the file is whole.
/// Throws kInvalidArgument, with the name that is wanted, if it is another part than the first or
/// its name is no such name; kCorrupt if its numbers are none.
[[nodiscard]] std::vector<std::string> other_parts(const GgufFile& first, const std::string& path);

/// Throws kCorrupt unless `part` says that it is this one (from 0) of so many.
void check_part(const GgufFile& part, int64_t number, int64_t count);

}  // namespace palimpsest
