#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace palimpsest {

/// A text of a file that can be cut between words (cut_points()).
class TextPieces {
 public:
    /// Throws as read_text_file() does.
    explicit TextPieces(const std::string& path);

    [[nodiscard]] int64_t size() const { return static_cast<int64_t>(points_.size()) - 1; }
    /// n of the pieces, as they stand there; start + n at most size().
    [[nodiscard]] std::string text(int64_t start, int64_t n) const;
    /// The fewest pieces from the start that have so many bytes.
    [[nodiscard]] int64_t count_of(size_t n_byte) const;

 private:
    std::string text_;
    std::vector<size_t> points_;
};

}  // namespace palimpsest
