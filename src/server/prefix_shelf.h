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
    struct Entry {
        std::string path;
        std::vector<std::shared_ptr<const PrefixDocument>> documents;  // one or more
    };

    /// `usual`: what stands before a request that says nothing. `folder` may be empty; of its files
    /// those that end with ".prefix.gguf" are taken, by the name before that. Throws as reading
    /// them does, and kInvalidArgument for a prefix that was made for another model or template.
    PrefixShelf(const Runtime& engine, const MemoryChoice& usual, const std::string& folder);

    [[nodiscard]] const std::map<std::string, Entry>& named() const { return named_; }
    /// What a conversation begins with, by the files of a memory's choice; nullptr: nothing.
    [[nodiscard]] const PrefixDocument* first_of(const MemoryChoice& choice) const;

 private:
    std::map<std::string, Entry> named_;
    std::map<std::string, Entry> usual_;  // by their files: requests have no names for them
};

/// What follows a prefix in the tokens of a conversation that begins with it. Throws ApiError 400
/// where something else stands in its place.
[[nodiscard]] std::vector<Segment> behind_prefix(const PrefixDocument& prefix,
                                                 std::vector<Segment> conversation);

}  // namespace palimpsest
