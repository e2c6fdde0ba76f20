#pragma once

#include <ggml.h>
#include <gguf.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/mapped_file.h"

namespace palimpsest {

/// ggml order, fastest first: {columns, rows, ...}. Unused places are 1.
using Shape = std::array<int64_t, 4>;

/// "[576, 49152]": the places up to the last that is not 1.
[[nodiscard]] std::string to_string(const Shape& shape);

/// One metadata value. Views into the file.
struct GgufValue {
    gguf_type type = GGUF_TYPE_COUNT;
    gguf_type element_type = GGUF_TYPE_COUNT;  // of an array
    uint64_t count = 1;                        // elements of an array
    std::span<const std::byte> bytes;          // the value, without type and count
};

/// One tensor: every size checked against the file. Views into the file.
struct GgufTensor {
    std::string_view name;
    ggml_type type = GGML_TYPE_F32;
    Shape shape = {1, 1, 1, 1};
    std::span<const std::byte> data;
};

/// A GGUF file (version 2 or 3, little-endian), model or sidecar, that was checked as a whole:
/// counts, lengths, types, dimensions, alignment and offsets against the file's size, with checked
/// arithmetic. What it hands out is inside the file; what it allocates is bounded by the file's
/// size. Immutable after construction.
class GgufFile {
 public:
    /// Maps and checks a file, and the other parts of one that is split (gguf_split.h), whose
    /// tensors it then has too. Throws kNotFound, kCorrupt or kUnsupported, and kInvalidArgument if
    /// this is a part, but not the first.
    static GgufFile open(const std::string& path);

    /// Checks bytes that the caller keeps alive. Throws kCorrupt or kUnsupported.
    explicit GgufFile(std::span<const std::byte> bytes);

    [[nodiscard]] const std::vector<GgufTensor>& tensors() const { return tensors_; }
    /// nullptr if absent.
    [[nodiscard]] const GgufTensor* find_tensor(std::string_view name) const;

    /// Names of all keys, sorted.
    [[nodiscard]] std::vector<std::string_view> keys() const;
    [[nodiscard]] bool has(std::string_view key) const { return find(key) != nullptr; }
    /// nullptr if absent.
    [[nodiscard]] const GgufValue* find(std::string_view key) const;

    /// The value of a key, of whatever width it was stored in; nullopt if absent.
    /// Throws kCorrupt if the key holds something else (text for a number, a fraction for a count).
    [[nodiscard]] std::optional<int64_t> integer(std::string_view key) const;
    [[nodiscard]] std::optional<double> number(std::string_view key) const;
    [[nodiscard]] std::optional<bool> boolean(std::string_view key) const;
    [[nodiscard]] std::optional<std::string_view> text(std::string_view key) const;
    /// Elements of an array; nullopt if absent. Throws kCorrupt for another element type.
    [[nodiscard]] std::optional<std::vector<std::string_view>> texts(std::string_view key) const;
    [[nodiscard]] std::optional<std::vector<int64_t>> integers(std::string_view key) const;
    [[nodiscard]] std::optional<std::vector<float>> floats(std::string_view key) const;

    /// The file's bytes and, for a file opened by name, the mapping that holds them.
    [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }
    [[nodiscard]] const MappedFile* mapping() const { return file_ ? &*file_ : nullptr; }
    /// The mappings that hold the tensors: this one, then those of the other parts.
    [[nodiscard]] std::vector<const MappedFile*> mappings() const;
    /// Of all parts.
    [[nodiscard]] size_t total_bytes() const;

 private:
    GgufFile(std::span<const std::byte> bytes, std::optional<MappedFile> file);
    static GgufFile open_alone(const std::string& path);
    void add_tensor(const GgufTensor& tensor);
    /// Takes over the tensors of another part, and the mapping that holds them.
    void take_over(GgufFile part);

    std::optional<MappedFile> file_;
    std::vector<MappedFile> other_parts_;
    std::span<const std::byte> bytes_;
    std::unordered_map<std::string_view, GgufValue> values_;
    std::vector<GgufTensor> tensors_;
    std::unordered_map<std::string_view, size_t> tensor_index_;
};

}  // namespace palimpsest
