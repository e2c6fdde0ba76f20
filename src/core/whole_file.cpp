#include "core/whole_file.h"

#include <array>

#include "core/output_file.h"

namespace palimpsest {

void write_whole_file(const std::string& path, std::span<const std::span<const std::byte>> parts) {
    OutputFile file(path);
    for (const std::span<const std::byte> part : parts) file.add(part);
    file.finish();
}

void write_whole_file(const std::string& path, std::string_view text) {
    const std::array<std::span<const std::byte>, 1> parts = {std::as_bytes(std::span(text))};
    write_whole_file(path, parts);
}

}  // namespace palimpsest
