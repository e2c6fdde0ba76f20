#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "memory/prefix/prefix_document.h"

namespace palimpsest {

/// Writes documents into one `.prefix.gguf` file, whole or not at all.
void write_prefixes(const std::string& path,
                    std::span<const std::shared_ptr<const PrefixDocument>> documents);

/// Reads a file's documents; their dictionaries stay where they are in it. Every size is checked,
/// and a check sum over header and tensors. Throws kNotFound, kCorrupt, or kUnsupported for a file
/// of a later version.
std::vector<std::shared_ptr<const PrefixDocument>> read_prefixes(const std::string& path);

/// Throws kInvalidArgument, saying what differs and what to do, unless `model` is the file that a
/// document was made with: weights and quantisation, tokenizer, template, positions.
void check_made_for(const PrefixHeader& header, const GgufFile& model);

/// The documents of several files, in order, each made for `model`. Throws as both do, and
/// kInvalidArgument where chats' and raw ones are mixed.
PrefixDocuments read_prefixes_for(const GgufFile& model, std::span<const std::string> paths);

/// Throws kInvalidArgument where chats' and raw ones are mixed.
void require_one_kind(const PrefixDocuments& documents);

/// Sets the hashes that check_made_for() compares.
void set_hashes(PrefixHeader& header, const GgufFile& model);

}  // namespace palimpsest
