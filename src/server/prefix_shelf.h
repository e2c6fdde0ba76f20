#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/prefix_text.h"
#include "engine/runtime.h"
#include "palimpsest/memory_choice.h"

namespace palimpsest {

/// The prefix memories of a server: those that stand before every request, and those of a folder,
/// which requests may choose by name. Read once, at the start. Thread-safe.
class PrefixShelf {
 public:
    /// `usual`: what stands before a request that says nothing. `folder` may be empty; of its files
    /// those that end with ".prefix.gguf" are taken, by the name before that. Throws as reading
    /// them does, and kInvalidArgument for a prefix that was made for another model or template,
    /// and for two files of one name.
    PrefixShelf(const Runtime& engine, const MemoryChoice& usual, const std::string& folder);

    /// Names, and the files they are of.
    [[nodiscard]] const std::map<std::string, std::string>& named() const { return named_; }
    /// Of such a file.
    [[nodiscard]] const PrefixDocuments& of(const std::string& path) const {
        return read_.at(path);
    }
    /// What stands before a conversation with that memory, in order. Throws kInvalidArgument for
    /// some that cannot stand together.
    [[nodiscard]] PrefixDocuments documents(const MemoryChoice& choice) const;

 private:
    void take(const Runtime& engine, const std::string& path);

    std::map<std::string, std::string> named_;
    std::map<std::string, PrefixDocuments> read_;  // by their files
};

}  // namespace palimpsest
