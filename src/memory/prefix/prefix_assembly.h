#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "memory/prefix/prefix_document.h"

namespace palimpsest {

/// Dictionaries being put together, layer by layer, in memory.
class PrefixAssembly {
 public:
    PrefixAssembly(PrefixHeader header, PrefixStorage storage);

    /// The next layer: one codebook for each of the layout's, and lists for each or for none.
    void add_layer(std::span<const Codebook> books, std::span<const EntryLists> lists = {});
    /// Similarity floors of all layers: [layer][codebook].
    void set_floors(std::span<const float> floors);
    /// Exact entries of a layer: rows of all KV heads, f16, of as many positions as the prefix.
    void set_exact(int64_t layer, std::span<const EntryRows> heads);
    /// Kept entries of a layer: of every KV head the first rows, f16, and the positions they are
    /// of.
    void set_kept(int64_t layer, std::span<const EntryRows> heads,
                  std::span<const std::vector<int32_t>> positions);

    /// The document so far; shares memory with this object, which may go.
    [[nodiscard]] PrefixDocument document(const PrefixHeader& header) const;

 private:
    GgufTensor own(ggml_type type, const Shape& shape, std::vector<std::byte> bytes);
    /// Of each head its first rows, how many, and the row of the tensor where they start.
    struct HeadRows {
        std::span<const EntryRows> heads;
        std::vector<int64_t> first = {}, count = {};
    };
    GgufTensor own_rows(const HeadRows& of, const std::byte* EntryRows::*part, ggml_type type,
                        const Shape& shape);

    PrefixHeader header_;
    PrefixStorage storage_;
    std::vector<PrefixLayer> layers_;
    std::shared_ptr<std::vector<std::vector<std::byte>>> bytes_;
};

}  // namespace palimpsest
