#pragma once

#include <span>
#include <string_view>

namespace palimpsest {

/// A file of web/, by its path in there.
struct PageFile {
    std::string_view name, content;
};

/// All of them; the build puts them into the program (cmake/embed.cmake).
[[nodiscard]] std::span<const PageFile> page_files();

}  // namespace palimpsest
