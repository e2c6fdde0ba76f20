#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "compress/skim/chunks.h"
#include "compress/skim/protocol.h"
#include "palimpsest/skim.h"

namespace palimpsest {

/// "model", "words".
[[nodiscard]] std::string_view to_string(SkimChooser chooser);
/// Throws kInvalidArgument for another name.
[[nodiscard]] SkimChooser skim_chooser_named(std::string_view name);

/// The chunks that have most of a question's rare words, best first, at most `most`.
[[nodiscard]] std::vector<int64_t> chunks_by_words(const std::vector<SkimChunk>& chunks,
                                                   std::string_view question, size_t most);

}  // namespace palimpsest
