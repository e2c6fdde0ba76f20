#include "train/training_texts.h"

#include <limits>
#include <utility>

#include "text/input_files.h"

namespace palimpsest {

std::vector<std::string> read_training_texts(std::span<const std::string> paths, size_t shortest) {
    std::vector<std::string> all;
    const auto add = [&](std::string text) {
        if (text.size() >= shortest) all.push_back(std::move(text));
    };
    for (const std::string& path : paths) {
        if (!path.ends_with(".jsonl")) {
            add(read_text_file(path));
            continue;
        }
        for (const JsonLine& line : read_json_lines(path, std::numeric_limits<int64_t>::max())) {
            add(text_field(line.value, "text", line.where));
        }
    }
    return all;
}

}  // namespace palimpsest
