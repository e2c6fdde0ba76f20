#include "core/sealed_file.h"

#include <array>
#include <filesystem>

#include "core/digest.h"
#include "core/error.h"
#include "core/mapped_file.h"
#include "core/whole_file.h"

namespace palimpsest {

void write_sealed(const std::string& path, std::string_view content) {
    const std::string seal = digest_of(content);
    const std::array<std::span<const std::byte>, 2> parts = {std::as_bytes(std::span(content)),
                                                             std::as_bytes(std::span(seal))};
    write_whole_file(path, parts);
}

std::optional<std::string> read_sealed(const std::string& path) {
    std::error_code error;
    if (!std::filesystem::exists(path, error)) return std::nullopt;
    const MappedFile file(path);
    const std::string_view all(reinterpret_cast<const char*>(file.bytes().data()),
                               file.bytes().size());
    const size_t n_seal = digest_of("").size();
    const size_t n = all.size() < n_seal ? 0 : all.size() - n_seal;
    if (all.size() < n_seal || digest_of(all.substr(0, n)) != all.substr(n)) {
        throw Error(ErrorCode::kCorrupt, cat("'", path, "' is damaged"));
    }
    return std::string(all.substr(0, n));
}

}  // namespace palimpsest
