#pragma once

#include <span>
#include <string>
#include <vector>

namespace palimpsest {

/// Text files as they are, and the field "text" of every line of files whose names end in .jsonl;
/// what is shorter than `shortest` bytes is left out. Throws as read_corpus() does.
[[nodiscard]] std::vector<std::string> read_training_texts(std::span<const std::string> paths,
                                                           size_t shortest);

}  // namespace palimpsest
