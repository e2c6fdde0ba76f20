#pragma once

#include <functional>
#include <string>
#include <unordered_set>
#include <vector>

#include "core/append_file.h"
#include "core/gguf.h"

namespace palimpsest {

/// What results call a model: the file's name and a hash of its beginning, for another file may
/// bear the same name.
std::string model_name(const std::string& path, const GgufFile& file);

/// A file of results, one JSON line each: what stands in it, and what comes is added at its end.
class ResultsFile {
 public:
    /// Keys of the results in a file's text, and its length up to the last line that is ended.
    struct Known {
        std::vector<std::string> keys;
        size_t whole_bytes = 0;
    };
    using Read = std::function<Known(const std::string& text, const std::string& name)>;

    /// Half a line at the end, which an interrupted run left, is taken off. Throws as AppendFile
    /// and `read` do: two runs at once would measure, and count, everything twice.
    ResultsFile(const std::string& path, const Read& read);

    [[nodiscard]] bool has(const std::string& key) const { return keys_.contains(key); }
    [[nodiscard]] size_t size() const { return keys_.size(); }

    /// Throws kUnwritable.
    void add(const std::string& key, const std::string& line);

 private:
    AppendFile file_;
    std::unordered_set<std::string> keys_;
};

}  // namespace palimpsest
