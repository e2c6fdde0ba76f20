#pragma once

#include <ggml.h>
#include <gguf.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace palimpsest::testing {

/// A number's bytes as a file holds them.
template <typename T>
std::string raw(T value) {
    std::string bytes(sizeof value, '\0');
    std::memcpy(bytes.data(), &value, sizeof value);
    return bytes;
}

/// Length and text as a file holds them.
std::string raw_text(std::string_view text);

/// A tensor's entry and data. What is nullopt is written as it should be; the rest may lie.
struct TensorField {
    std::string name;
    std::vector<uint64_t> dims;
    uint32_t type = GGML_TYPE_F32;
    std::string data = {};
    std::optional<uint32_t> n_dims = std::nullopt;
    std::optional<uint64_t> name_bytes = std::nullopt;
    std::optional<uint64_t> offset = std::nullopt;
};

/// A GGUF file, written field by field, so that a test can lie in every one.
struct GgufBuilder {
    std::string magic = "GGUF";
    uint32_t version = 3;
    std::optional<uint64_t> n_tensors = std::nullopt, n_keys = std::nullopt;
    uint64_t alignment = 32;                                     // of the data as it is laid out
    std::vector<std::pair<std::string, std::string>> keys = {};  // name, and type with value
    std::vector<TensorField> tensors = {};

    /// Adds a key, or replaces its value.
    GgufBuilder& set(std::string_view key, uint32_t type, const std::string& value);
    GgufBuilder& set(std::string_view key, uint32_t value);
    GgufBuilder& set(std::string_view key, int32_t value);
    GgufBuilder& set(std::string_view key, float value);
    GgufBuilder& set_text(std::string_view key, std::string_view value);
    GgufBuilder& set_bool(std::string_view key, bool value);
    GgufBuilder& set_texts(std::string_view key, const std::vector<std::string>& values);
    /// An array of `count` elements, as `values` has or has not.
    GgufBuilder& set_array(std::string_view key, uint32_t element_type, uint64_t count,
                           const std::string& values);
    template <typename T>
    GgufBuilder& set_array(std::string_view key, uint32_t element_type,
                           const std::vector<T>& values) {
        std::string bytes;
        for (const T v : values) bytes += raw(v);
        return set_array(key, element_type, values.size(), bytes);
    }
    GgufBuilder& remove(std::string_view key);
    GgufBuilder& add(TensorField tensor);
    /// Adds an f32 tensor of small numbers that depend on its place only.
    GgufBuilder& add_f32(const std::string& name, const std::vector<uint64_t>& dims);
    /// Throws std::out_of_range if there is none.
    TensorField& tensor(std::string_view name);
    GgufBuilder& remove_tensor(std::string_view name);

    /// Header, keys and tensor entries: everything before the data.
    [[nodiscard]] std::string header() const;
    [[nodiscard]] std::string bytes() const;
};

/// A small valid file with a key of every type and two tensors.
GgufBuilder small_file();

/// The fields of a valid file with the usual alignment.
GgufBuilder taken_apart(std::string_view file);

/// The fields of a tiny llama model with one key-value head; another vocabulary size if asked for.
GgufBuilder tiny_llama(uint64_t n_vocab = 40);

/// How byte-level vocabularies spell each byte: as itself if it prints, else from U+0100 on.
std::vector<std::string> byte_spellings();

/// Tokens of a byte-level BPE vocabulary: 256 bytes, three merged pieces, three special tokens.
constexpr uint64_t kTinyBpeTokens = 262;
/// Gives a model of at least so many rows such a vocabulary and a ChatML template. Bytes in
/// `missing` have no token: others, never met, are in their places.
void add_bpe_vocabulary(GgufBuilder& file, std::string_view missing = "");

/// Tokens of a SentencePiece vocabulary: three special tokens, 256 bytes, a space, five pieces.
constexpr uint64_t kTinySpmTokens = 265;
void add_spm_vocabulary(GgufBuilder& file, std::string_view missing = "");

}  // namespace palimpsest::testing
