#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace palimpsest {

/// What documents to train on are asked for.
struct MaterialOptions {
    int64_t n_documents = 400;
    int64_t n_characters = 12000;  // of a document, a sixth more or less
    double text_share = 0.5;       // of them from given texts, if any are given; 0 to 1
    uint64_t seed = 1;
};

/// Documents to train eviction on, shuffled; the same for the same arguments on every machine. Some
/// are prose made up here with facts planted in it, often followed by questions about them and
/// their answers; the others are windows of `texts`, some of them with facts planted too. Bytes
/// that are not UTF-8 are replaced. Throws kInvalidArgument for impossible numbers, or texts of
/// which none is as long as a document.
std::vector<std::string> make_material(const MaterialOptions& options,
                                       std::span<const std::string> texts);

}  // namespace palimpsest
