#pragma once

#include <ggml-cpp.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/gguf.h"

namespace palimpsest {

/// f32, f16 or q8_0: how matrices can be written here. Throws kInvalidArgument, listing them.
[[nodiscard]] ggml_type matrix_type(std::string_view name);

/// In what a tensor is stored if matrices are in `type`: vectors in f32, and a matrix whose rows
/// are no whole blocks in f16.
[[nodiscard]] ggml_type stored_type(ggml_type type, const Shape& shape);

/// A GGUF file in the making: keys and tensors, kept in memory until write(), but for those that
/// are made while it writes.
class GgufWriter {
 public:
    GgufWriter();

    /// Sets a key, or replaces its value. Throws kInvalidArgument for a name without letters.
    void set_text(const std::string& key, std::string_view value);
    void set_integer(const std::string& key, int64_t value);
    void set_count(const std::string& key, uint32_t value);
    void set_number(const std::string& key, float value);
    void set_boolean(const std::string& key, bool value);
    void set_texts(const std::string& key, const std::vector<std::string>& values);
    void set_integers(const std::string& key, const std::vector<int32_t>& values);
    /// A key with its value as another file has it. Arrays of texts are kUnsupported.
    void set_copy(const std::string& key, const GgufValue& value);
    /// All keys of another file, but those that say how its tensors are stored.
    void copy_keys(const GgufFile& from);

    /// Adds a tensor, stored as f32 or f16; other types are kUnsupported. Throws kInvalidArgument
    /// if the values do not fill the shape, if one is not finite in the type it is stored in, or
    /// if the name is empty, too long for ggml or there already.
    void add(const std::string& name, const Shape& shape, std::span<const float> values,
             ggml_type type = GGML_TYPE_F32);
    /// Adds another file's tensor as it is.
    void add_copy(const GgufTensor& tensor);

    using Put = std::function<void(std::span<const std::byte>)>;
    /// Adds a tensor whose data come about in write(): `make` puts them, part by part, as many
    /// bytes as a tensor of that type and shape has.
    void add_made(const std::string& name, const Shape& shape, ggml_type type,
                  std::function<void(const Put&)> make);

    /// Writes the file, whole or not at all. Returns its SHA-256. Throws as OutputFile does, and
    /// what making a tensor throws.
    std::string write(const std::string& path) const;

 private:
    struct Entry {
        std::string name;
        ggml_type type = GGML_TYPE_F32;
        Shape shape = {1, 1, 1, 1};
        std::vector<std::byte> data = {};
        std::function<void(const Put&)> make = {};  // instead
    };
    void check_name(const std::string& name) const;

    gguf_context_ptr keys_;
    std::vector<Entry> tensors_;
};

}  // namespace palimpsest
